import { batch, computed, signal } from '@preact/signals';
import type { UploadInfoJson } from '../../server/answers/uploads.js';
import type { Api, User } from '../api.js';
import { onServerBack, suspectOutage } from '../connection.js';
import { soonText } from '../format.js';
import type { ChosenFile } from './chosen.js';
import { type Limits, refusalOf } from './limits.js';
import { createRate, type Rate } from './rate.js';
import type { Refusal, Sending, Uploader } from './uploader.js';

/* The uploads of this tab, as the list shows them. */

/** A file on its way, or one that was refused. */
export interface UploadRow extends Omit<Sending, 'state'> {
  /** `arriving`: all is sent, and the page does not know the file yet. */
  state: Sending['state'] | 'refused' | 'arriving';
  /** Bytes a second; 0 while nothing moves. */
  rate: number;
  /** Undefined: not known. */
  secondsLeft: number | undefined;
  /** Why it was refused, or does not go on. */
  problem: string | undefined;
  /** Whether it makes sense to send a refused file again. */
  canRetry: boolean;
}

export interface Uploads {
  readonly rows: { readonly value: UploadRow[] };
  /** A message for everybody, such as that the server takes no more uploads for now; empty: none. */
  readonly note: { readonly value: string };
  add(files: ChosenFile[]): void;
  pause(key: string): void;
  resume(key: string): void;
  /** Ends an upload, or puts the row of a refused file away. */
  cancel(key: string): void;
  /** Sends a refused file again. */
  retry(key: string): void;
  /** Goes on with a file whose bytes the browser has lost. */
  chooseAgain(key: string, file: File): void;
  pauseAll(): void;
  resumeAll(): void;
  cancelAll(): void;
  /** Whether a reload or a sign-out would interrupt something. */
  isUploading(): boolean;
}

interface Listener {
  /** The server has a file of this upload now. @returns when the list shows it */
  onFinished(fileId: string): Promise<void>;
  /** Something was refused or disturbed. */
  onNews(): void;
}

interface RefusedFile {
  row: UploadRow;
  file: File | undefined;
}

/** How often the rows follow the bytes. */
const SHOW_EVERY_MS = 250;
const LOCK_WAIT_MS = 1000;

export function openUploads(api: Api, user: User, listener: Listener): Uploads {
  const name = `landfall-${user.id}`;
  const owning = ownsRestore(user);
  const sendings = signal<Sending[]>([]);
  const arriving = signal<Sending[]>([]);
  const refused = signal<RefusedFile[]>([]);
  const note = signal('');
  const problems = new Map<string, string>();
  const rates = new Map<string, Rate>();
  let limits: Limits | undefined;
  /** Files that were chosen before Uppy was there. */
  const early = signal<{ sending: Sending; chosen: ChosenFile }[]>([]);
  let isLoading = false;
  let uploader: Uploader | undefined;
  let _timer: number | undefined;
  let noteTimer: number | undefined;

  const rows = computed<UploadRow[]>(() => [
    ...refused.value.map(({ row }) => row),
    ...arriving.value.map((sending) => ({
      ...toRow(sending, undefined, undefined),
      state: 'arriving' as const,
    })),
    ...early.value.map(({ sending }) => toRow(sending, undefined, undefined)),
    ...sendings.value.map((sending) => toRow(sending, rates.get(sending.key), problems.get(sending.key))),
  ]);

  function show(): void {
    _timer = undefined;
    const list = uploader?.list() ?? [];
    for (const { key, sent, state } of list) {
      const rate = rates.get(key) ?? createRate();
      rates.set(key, rate);
      if (state === 'sending') rate.note(sent, Date.now());
      else rate.reset();
    }
    sendings.value = list;
    void owning.then((restores) => restores && keepMark(name, list.length > 0));
    // The rate of what stands still goes down although no byte tells it.
    if (list.some(({ state }) => state === 'sending')) showSoon();
  }

  function showSoon(): void {
    _timer ??= window.setTimeout(show, SHOW_EVERY_MS);
  }

  function say(text: string, ms: number): void {
    note.value = text;
    clearTimeout(noteTimer);
    noteTimer = window.setTimeout(() => {
      note.value = '';
    }, ms);
  }

  function refuse(sending: Sending, file: File | undefined, problem: string, canRetry: boolean): void {
    const row: UploadRow = {
      ...sending,
      state: 'refused',
      rate: 0,
      secondsLeft: undefined,
      problem,
      canRetry,
    };
    refused.value = [{ row, file }, ...refused.value];
  }

  async function load(): Promise<void> {
    if (uploader || isLoading) return;
    isLoading = true;
    try {
      const restores = await owning;
      const { startUploader } = await import('./uploader.js');
      // No user restores the files of another, and no tab those of another tab.
      const own = restores ? name : `${name}-${Date.now()}`;
      uploader = startUploader(api, own, restores, {
        onChange: showSoon,
        onFinished(sending) {
          rates.delete(sending.key);
          batch(() => {
            arriving.value = [sending, ...arriving.value];
            sendings.value = sendings.value.filter(({ key }) => key !== sending.key);
          });
          void listener.onFinished(sending.fileId ?? '').finally(() => {
            arriving.value = arriving.value.filter((one) => one !== sending);
          });
        },
        onRefused(refusal) {
          refuse(refusal.sending, refusal.file, reasonOf(refusal), canRetry(refusal, limits));
          listener.onNews();
        },
        onTrouble() {
          suspectOutage();
          listener.onNews();
        },
        onHeld(ms) {
          say(`The server takes no more new uploads for now. They go on by themselves ${soonText(ms)}.`, ms);
        },
      });
      uploader.add(early.value.map(({ chosen }) => chosen));
      early.value = [];
    } catch {
      // It is loaded when the server is back.
      suspectOutage();
    }
    isLoading = false;
  }

  async function loadLimits(): Promise<void> {
    limits ??= await api.get<UploadInfoJson>('/api/uploads/info').catch(() => undefined);
  }

  onServerBack(() => {
    uploader?.hurry();
    void loadLimits();
    if (early.value.length > 0 || hasMark(name)) void load();
  });
  void loadLimits();
  if (hasMark(name)) void load();

  const each = (states: Sending['state'][], act: (key: string) => void) => {
    for (const { key, state } of uploader?.list() ?? []) if (states.includes(state)) act(key);
  };
  const dismiss = (key: string) => {
    refused.value = refused.value.filter(({ row }) => row.key !== key);
  };

  return {
    rows,
    note,
    add(files) {
      const good = files.filter((chosen) => {
        const problem = limits && refusalOf(limits, chosen.file);
        if (problem === undefined) return true;
        refuse(newSending(chosen), undefined, problem, false);
        return false;
      });
      if (uploader) return uploader.add(good);
      early.value = [...early.value, ...good.map((chosen) => ({ sending: newSending(chosen), chosen }))];
      if (good.length > 0) void load();
    },
    pause: (key) => uploader?.pause(key),
    resume: (key) => uploader?.resume(key),
    cancel(key) {
      early.value = early.value.filter(({ sending }) => sending.key !== key);
      if (refused.value.some(({ row }) => row.key === key)) dismiss(key);
      else uploader?.cancel(key);
      problems.delete(key);
    },
    retry(key) {
      const file = refused.value.find(({ row }) => row.key === key)?.file;
      if (!file) return;
      batch(() => {
        dismiss(key);
        uploader?.add([{ file }]);
      });
    },
    chooseAgain(key, file) {
      if (uploader?.chooseAgain(key, file)) problems.delete(key);
      else problems.set(key, `${file.name} is not the same file. Choose the one that you began to send.`);
      show();
    },
    pauseAll: () => each(['sending', 'waiting'], (key) => uploader?.pause(key)),
    resumeAll: () => each(['paused', 'failed'], (key) => uploader?.resume(key)),
    cancelAll: () => each(['sending', 'waiting', 'paused', 'failed', 'lost'], (key) => uploader?.cancel(key)),
    isUploading: () =>
      [...sendings.value, ...early.value.map(({ sending }) => sending)].some(
        ({ state }) => state === 'sending' || state === 'waiting',
      ),
  };
}

function toRow(sending: Sending, rate: Rate | undefined, problem: string | undefined): UploadRow {
  const speed = sending.state === 'sending' ? (rate?.perSecond(Date.now()) ?? 0) : 0;
  return {
    ...sending,
    rate: speed,
    secondsLeft: speed > 0 ? Math.ceil((sending.size - sending.sent) / speed) : undefined,
    problem,
    canRetry: false,
  };
}

/** Browsers offer randomUUID() to secure origins only. */
let numbered = 0;

/** A file that Uppy does not know. */
function newSending({ file, path }: ChosenFile): Sending {
  const key = `chosen-${++numbered}`;
  return {
    key,
    fileId: undefined,
    name: path ?? file.name,
    type: file.type,
    size: file.size,
    sent: 0,
    state: 'waiting',
  };
}

function reasonOf({ reason, status }: Refusal): string {
  return reason ?? `The server does not take this file (${status}).`;
}

/** A file that is too large stays too large; when the quota is used up, deleting something makes room. */
function canRetry({ sending, file, status }: Refusal, limits: Limits | undefined): boolean {
  if (!file) return false;
  if (status === 413 || status === 507) return !(limits && refusalOf(limits, sending));
  return status === 404 || status === 410 || status === 409 || status === 423;
}

const markOf = (name: string) => `${name}-unfinished`;

/** Remembers over a reload that there is something to go on with, so that a page without such does not load Uppy. */
function keepMark(name: string, isNeeded: boolean): void {
  if (isNeeded) localStorage.setItem(markOf(name), '1');
  else localStorage.removeItem(markOf(name));
}

function hasMark(name: string): boolean {
  return localStorage.getItem(markOf(name)) !== null;
}

/**
 * Whether this tab is the one that keeps and restores unfinished uploads. Two such tabs would send the same
 * upload and disturb each other.
 */
async function ownsRestore(user: User): Promise<boolean> {
  // Only secure origins have locks.
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks
      // A reloaded page may have to wait until its former self has released the lock.
      .request(`landfall-uploads-${user.id}`, { signal: AbortSignal.timeout(LOCK_WAIT_MS) }, () => {
        resolve(true);
        return new Promise(() => {}); // held until the page goes
      })
      .catch(() => resolve(false));
  });
}
