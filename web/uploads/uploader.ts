import type { DetailedError } from 'tus-js-client';
import { GoldenRetriever, Uppy } from 'uppy';
import type { Api } from '../api.js';
import type { ChosenFile } from './chosen.js';
import { type Body, isPassing, isPaused, type Meta, refusalIn, type Sent, sendByTus } from './tus.js';

/*
 * Sends files by tus with Uppy, and keeps them in the browser over a reload. The page loads this module when there is
 * something to send. Each file is an upload of its own for Uppy, so that none waits for another.
 */

const MiB = 2 ** 20;
/** An upload that has stood still for so long begins a new connection; twice as long the next time. */
const STALL_MS = 30_000;
const LOOK_EVERY_MS = 1000;

/** A file that is being sent. */
export interface Sending {
  key: string;
  /** Of the upload, and of the file that it becomes; undefined: the server does not know the upload yet. */
  fileId: string | undefined;
  name: string;
  type: string;
  size: number;
  /** Bytes that were handed to the network. */
  sent: number;
  /** `lost`: the browser has lost the bytes; the file must be chosen again. */
  state: 'waiting' | 'sending' | 'paused' | 'failed' | 'lost';
}

/** Why an upload ended without a file. */
export interface Refusal {
  sending: Sending;
  file: File | undefined;
  /** In words for the user. */
  reason: string | undefined;
  /** Of HTTP; undefined: there was no answer. */
  status: number | undefined;
}

export interface UploaderEvents {
  /** Something about the files that are sent has changed. */
  onChange(): void;
  onFinished(sending: Sending): void;
  /** The server has refused a file; it is not sent any more. */
  onRefused(refusal: Refusal): void;
  /** A request got no answer. */
  onTrouble(): void;
  /** The server takes no new uploads for so long. */
  onHeld(ms: number): void;
}

export interface Uploader {
  list(): Sending[];
  add(chosen: ChosenFile[]): void;
  pause(key: string): void;
  resume(key: string): void;
  /** Ends an upload, here and on the server. */
  cancel(key: string): void;
  /** @returns false if this is not the file that was chosen before */
  chooseAgain(key: string, file: File): boolean;
  /** Lets the uploads that stand still try again at once. */
  hurry(): void;
}

/** @param restores whether this tab goes on with the uploads of an earlier visit */
export function startUploader(api: Api, name: string, restores: boolean, events: UploaderEvents): Uploader {
  const uppy = new Uppy<Meta, Body>({
    id: name,
    autoProceed: false,
    allowMultipleUploadBatches: true,
  });
  const stalls = watchStalls();
  sendByTus(uppy, api, events);
  if (restores) restoreAfterReload();
  window.addEventListener('unhandledrejection', ignoreEnded);
  uppy.on('state-update', () => events.onChange());
  uppy.on('upload-progress', (file) => {
    if (file) stalls.noteProgress(file.id);
  });
  setInterval(() => {
    for (const { key } of list().filter(({ state }) => state === 'sending')) {
      if (stalls.isStalled(key)) restart(key);
    }
  }, LOOK_EVERY_MS);

  function list(): Sending[] {
    return uppy
      .getFiles()
      .filter((file) => !file.progress.uploadComplete)
      .map(toSending);
  }

  /** Sends one file, and forgets it when that has ended. */
  function send(key: string): void {
    stalls.noteProgress(key);
    uppy
      .retryUpload(key)
      .then((result) => {
        const [file] = result?.successful ?? [];
        if (!file) return;
        events.onFinished(toSending(file));
        // Only now: a file that is removed earlier is deleted on the server too.
        uppy.removeFile(key);
      })
      // upload-error has told it.
      .catch(() => {});
  }

  uppy.on('upload-error', (file, _error, response) => {
    if (!file) return;
    const request = response?.body?.xhr;
    const status = request instanceof XMLHttpRequest ? request.status || undefined : undefined;
    if (status === undefined || isPassing('PATCH', status) || status >= 500) {
      events.onTrouble();
      return;
    }
    const known = uppy.getFile(file.id);
    if (!known) return;
    events.onRefused({
      sending: toSending(known),
      file: known.data instanceof File ? known.data : undefined,
      reason: refusalIn(request),
      status,
    });
    uppy.removeFile(file.id);
  });

  /** Ends the connection of an upload, and begins another. */
  function restart(key: string): void {
    stalls.noteRestart(key);
    uppy.pauseResume(key);
    uppy.pauseResume(key);
  }

  function restoreAfterReload(): void {
    uppy.on('restored', () => {
      // Uppy would go on with them together, and not at all if one of them must be chosen again.
      uppy.setState({ currentUploads: {}, recoveredState: null });
      for (const file of uppy.getFiles()) {
        if (file.progress.uploadComplete) uppy.removeFile(file.id);
        else if (!file.isGhost && !isPaused(file)) send(file.id);
      }
    });
    // The types of GoldenRetriever lack these limits, which default to 10 and 300 MiB.
    const indexedDB: object = { maxFileSize: 1024 * MiB, maxTotalSize: 4096 * MiB };
    uppy.use(GoldenRetriever, { indexedDB });
  }

  return {
    list,
    add(chosen) {
      for (const { file, path } of chosen) {
        const meta: Meta = {
          filename: file.name,
          filetype: file.type,
          modified: file.lastModified,
          ...(path === undefined ? {} : { relativePath: path }),
        };
        try {
          const key = uppy.addFile({ name: file.name, type: file.type, data: file, source: 'page', meta });
          send(key);
        } catch {
          // It is on its way already.
        }
      }
    },
    pause(key) {
      const file = uppy.getFile(key);
      if (file && !isPaused(file)) uppy.pauseResume(key);
    },
    resume(key) {
      const file = uppy.getFile(key);
      if (!file) return;
      stalls.noteProgress(key);
      // A file that was paused before a reload is not under way for Uppy, nor one that has failed.
      const isUnderWay = Object.values(uppy.getState().currentUploads).some(({ fileIDs }) =>
        fileIDs.includes(key),
      );
      if (isUnderWay && isPaused(file) && !file.error) uppy.pauseResume(key);
      else send(key);
    },
    cancel(key) {
      if (uppy.getFile(key)) uppy.removeFile(key);
    },
    chooseAgain(key, file) {
      const lost = uppy.getFile(key);
      if (
        !lost ||
        lost.name !== file.name ||
        lost.size !== file.size ||
        lost.meta.modified !== file.lastModified
      )
        return false;
      uppy.setFileState(key, { data: file, isGhost: false });
      send(key);
      return true;
    },
    hurry() {
      for (const { key, state } of list()) {
        if (state === 'failed') send(key);
        else if (state === 'sending' && stalls.stoodMs(key) > LOOK_EVERY_MS) restart(key);
      }
    },
  };
}

function toSending(file: Sent): Sending {
  const { progress } = file;
  return {
    key: file.id,
    fileId: idIn(file.tus?.uploadUrl ?? file.uploadURL),
    name: file.meta.relativePath ?? file.name ?? '',
    type: file.type ?? '',
    size: file.size ?? 0,
    sent: typeof progress.bytesUploaded === 'number' ? progress.bytesUploaded : 0,
    state: file.isGhost
      ? 'lost'
      : file.error
        ? 'failed'
        : isPaused(file)
          ? 'paused'
          : progress.uploadStarted
            ? 'sending'
            : 'waiting',
  };
}

/** The id at the end of the address of an upload. */
function idIn(address: string | null | undefined): string | undefined {
  return address?.split('/').at(-1);
}

/**
 * When the answer to the DELETE of a canceled upload is lost, the tus client sends another one, and the upload has ended by
 * then. Uppy does not handle that error.
 */
function ignoreEnded(event: PromiseRejectionEvent): void {
  const { originalRequest, originalResponse } = event.reason as Partial<DetailedError>;
  const isDelete = originalRequest?.getMethod() === 'DELETE';
  if (isDelete && [404, 410].includes(originalResponse?.getStatus() ?? 0)) event.preventDefault();
}

/** Tells which uploads stand still. */
function watchStalls() {
  const last = new Map<string, { at: number; allowedMs: number }>();
  return {
    noteProgress: (key: string) => void last.set(key, { at: Date.now(), allowedMs: STALL_MS }),
    noteRestart(key: string) {
      const allowedMs = 2 * (last.get(key)?.allowedMs ?? STALL_MS);
      last.set(key, { at: Date.now(), allowedMs });
    },
    stoodMs: (key: string) => Date.now() - (last.get(key)?.at ?? Date.now()),
    isStalled(key: string) {
      const seen = last.get(key);
      return seen !== undefined && Date.now() - seen.at > seen.allowedMs;
    },
  };
}
