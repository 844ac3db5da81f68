import type { Actor } from '../database/entities/event.js';
import type { Upload } from '../database/entities/upload.js';
import { AppError } from '../errors.js';
import type { Creation } from './create.js';
import type { Description } from './description.js';

/*
 * Questions that this server asks before it acts. Each hook is asked outside of any transaction, and may refuse by
 * throwing UploadRefused. Every other error means that the hook gave no answer: the caller's request fails, nothing
 * changes, and the same request may work later.
 */

export interface UploadHooks {
  /** Asked before an upload is created. After a refusal there is no upload. */
  beforeCreate?(creation: Creation): Promise<CreationChanges | undefined>;
  /**
   * Asked when the object of an upload is assembled, before there is a file. After a refusal the upload is terminated,
   * its bytes are deleted, and its `error` names the reason.
   *
   * Not asked about a partial upload, which never becomes a file: its final upload is asked about when its length is known.
   *
   * An upload can be asked about twice: when the process dies after the answer, another one asks again.
   */
  beforeFinish?(finish: UploadQuestion): Promise<void>;
  /**
   * Asked before an upload, or the file that it has become, is deleted for good because a client asked for it. Not asked
   * when an upload expires, when the store has lost its bytes, or when its own request has failed.
   */
  beforeEnd?(end: UploadQuestion): Promise<void>;
  /**
   * Told after bytes of an upload were committed; must neither wait nor throw.
   * @param stop ends the upload for the reason given, if its request still takes bytes
   */
  onReceived?(upload: Upload, stop: (refusal: UploadRefused) => void): void;
}

/** Changes that a hook makes to an upload before it is created. */
export interface CreationChanges {
  /** Replaces all that the client has sent as metadata. */
  description?: Description | undefined;
  /** The account that owns the upload; counts only for a sender whom this server does not know. */
  ownerId?: string | undefined;
  /** Where its file is to be delivered: a target of a named destination, or `none`. */
  deliverTo?: string | undefined;
}

export interface UploadQuestion {
  upload: Upload;
  /** The sender of the request; null: there is no request, because the reconciler acts. */
  actor: Actor | null;
  /** Of a final upload: its partial uploads, in their order. */
  partialIds?: string[] | undefined;
}

/** The parts of an HTTP answer that a hook chooses itself. */
export interface HookAnswer {
  status?: number | undefined;
  headers?: Record<string, string> | undefined;
  body?: string | undefined;
}

/** A hook's refusal, and so the answer to the client. */
export class UploadRefused extends AppError {
  override name = 'UploadRefused';
  /** Replaces parts of the usual answer to this error; undefined: the hook leaves the answer to this server. */
  readonly answer: HookAnswer | undefined;

  /** @param detail is shown to the client and the owner unchanged */
  constructor(detail?: string, answer?: HookAnswer) {
    super('refused', detail === undefined ? {} : { detail });
    this.answer = answer;
  }
}

/** The hook could not be asked, or gave no answer that can be read. */
export class HookSilent extends AppError {
  override name = 'HookSilent';
  constructor(cause: unknown) {
    super('unavailable', {
      detail: 'The hook of this server does not answer: try again',
      cause,
      retryable: true,
    });
  }
}
