import type { Actor, Event } from '../database/entities/event.js';
import type { Problem, StepRecord } from '../database/entities/file.js';
import type { UploadKind } from '../database/entities/upload.js';

/* The data of each type of event, and the part of an event that clients may see. */

type Nothing = Record<never, never>;

/** A run of a file's processing; `error` says why it ended badly. */
interface RunData {
  run: number;
  error?: Problem;
}

/**
 * Why the system has deleted a file for good: the trash was too full, the file was in it for too long, or files are kept
 * no longer (FILE_RETENTION_HOURS).
 */
export type PurgeReason = 'trash_full' | 'trash_period' | 'retention';

/** Events that report a change of a file's status. */
export type StatusEventType =
  | 'file.processing'
  | 'file.completed'
  | 'file.failed'
  | 'file.infected'
  | 'file.paused'
  | 'file.canceled'
  | 'file.pending';

/** The data of each type, besides subject, owner and actor. It holds neither secrets nor content. */
interface EventData extends Record<StatusEventType, RunData> {
  /** `length` in bytes; null: not known yet. `kind` is absent for an upload that becomes a file by itself. */
  'upload.created': { length: number | null; kind?: Exclude<UploadKind, 'file'> };
  'upload.expired': { reason?: string };
  'upload.terminated': { reason?: string };
  /** Bytes. */
  'file.created': { size: number };
  'file.step': StepRecord & { step: string };
  /** The id of the older file with which it shares its bytes from now on. */
  'file.deduplicated': { duplicateOf: string };
  /** Its copy is where other systems expect it: the name of the destination, the key in it, and bytes. */
  'file.delivered': { destination: string; key: string; size: number };
  /** The stored bytes are not those that were measured: the file is not served any more. */
  'file.corrupted': { detail: string };
  /** Without the names: the event stays after the file is purged. */
  'file.renamed': Nothing;
  'file.deleted': Nothing;
  'file.restored': Nothing;
  'file.purged': { reason?: PurgeReason };
  'auth.register': { role: string; invitation?: string };
  'auth.login': Nothing;
  'auth.logout': Nothing;
  'auth.token_reused': Nothing;
  'auth.password': Nothing;
  'session.revoked': Nothing;
  'key.created': { prefix: string; scopes: string[] };
  'key.revoked': Nothing;
  'upload_token.created': Nothing;
  'upload_token.revoked': Nothing;
  'invitation.created': Nothing;
  'invitation.revoked': Nothing;
  'user.changed': Record<string, unknown>;
  /** `host`: of its address, whose path may hold a secret. */
  'webhook.created': { host: string; events: string[]; scope: string };
  'webhook.changed': { host?: string; events?: string[]; enabled?: boolean };
  'webhook.deleted': Nothing;
  /** The system has disabled it: its receiver has failed for a day, or has answered 410. */
  'webhook.disabled': { reason: 'failing' | 'gone' };
  'webhook.rotated': Nothing;
  'webhook.replayed': { from: string };
  'webhook.test': Nothing;
  /** By the board. */
  'queue.changed': { method: string; path: string };
  'queue.paused': Nothing;
  'queue.resumed': Nothing;
  /** An admin took the job out of the queue and out of the list of jobs. */
  'job.removed': RunData;
  /** Files are scanned again: that of the subject, or many. By an admin, or because of new signatures. */
  'rescan.started': { rescan: string };
  'rescan.canceled': { rescan: string };
  'audit.exported': Record<string, unknown>;
  /** The level of all logs for a time; null: that of the configuration again. */
  'log.level': { level: string | null; seconds?: number };
  /** A request that was refused, where no other type fits. */
  access: Nothing;
  /** A count of further refused requests of one or several networks; see server/auth/refusal-counts.ts. */
  'access.counted': Nothing;
}

export type EventType = keyof EventData;

type FileEventType = Extract<EventType, `upload.${string}` | `file.${string}`>;

/** The compiler finds a type that is missing here. */
const FILE_EVENTS: Record<FileEventType, true> = {
  'upload.created': true,
  'upload.expired': true,
  'upload.terminated': true,
  'file.created': true,
  'file.processing': true,
  'file.step': true,
  'file.deduplicated': true,
  'file.delivered': true,
  'file.completed': true,
  'file.failed': true,
  'file.infected': true,
  'file.paused': true,
  'file.canceled': true,
  'file.corrupted': true,
  'file.pending': true,
  'file.renamed': true,
  'file.deleted': true,
  'file.restored': true,
  'file.purged': true,
};

/** The types of the events that happen to uploads and files. */
export const FILE_EVENT_TYPES: readonly string[] = Object.keys(FILE_EVENTS);

/** Whether something happened to an upload or a file; refused requests and events of accounts are for the audit log. */
export function isFileEvent({ type, result }: Event): boolean {
  return result === 'ok' && Object.hasOwn(FILE_EVENTS, type);
}

interface Common {
  /** Upload, file, user, …; null where there is none. */
  subjectId: string | null;
  /** The user whose timeline shows the event. */
  ownerId: string | null;
  /** The person, key or token that acted; absent: the system itself. */
  actor?: Actor | undefined;
}

/** Something that was done. */
type DoneEvent = {
  [Type in EventType]: Common & { type: Type; result?: 'ok' } & (Nothing extends EventData[Type]
      ? { data?: EventData[Type] }
      : { data: EventData[Type] });
}[EventType];

interface StatusEvent extends Common {
  type: StatusEventType;
  result?: 'ok';
  data: RunData;
}

/** An action that was refused; `data` says what was requested and why it was refused. */
interface RefusedEvent extends Common {
  type: EventType;
  result: 'refused';
  data?: Record<string, unknown>;
}

export type NewEvent = DoneEvent | StatusEvent | RefusedEvent;

/** The public part of an event: without the actor and the columns of the audit log. */
export interface PublicEvent {
  /** Its number in the log, after which a reader resumes; null for a moment after the event was written. */
  seq: number | null;
  type: string;
  /** The upload or file that it is about. */
  subjectId: string | null;
  data: Record<string, unknown>;
  createdAt: Date;
}

export function toPublicEvent({ seq, type, subjectId, data, createdAt }: PublicEvent): PublicEvent {
  return { seq, type, subjectId, data, createdAt };
}
