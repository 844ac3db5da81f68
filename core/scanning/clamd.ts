import { connect, type Socket } from 'node:net';
import { within } from '../concurrency.js';
import { AppError } from '../errors.js';
import { type Scan, type Scanner, ScannerLost, type ScanResult, type Verdict } from './scanner.js';

/*
 * Scans with clamd, the daemon of ClamAV, over its socket (docs.clamav.net/manual/Usage/ClamdProtocol.html). INSTREAM
 * takes the bytes in chunks, each behind its length, and a chunk of length 0 ends them. Each scan has a connection of its
 * own. Nothing is kept in memory: a chunk that clamd has not taken yet holds up the read of the file.
 *
 * clamd refuses a stream that is longer than its StreamMaxLength as soon as it comes to that length, and cuts the
 * connection. A write that meets the cut connection loses the answer. So behind a connection that was cut, clamd is asked
 * whether it takes as many bytes at all: it refuses a chunk that is too long as soon as it has read its length.
 */

/** Where clamd listens: on a TCP port, or on a socket of this machine. */
export type ClamdAddress = { host: string; port: number } | { path: string };

export interface ClamdConfig {
  address: ClamdAddress;
  /** Milliseconds that clamd may take for a chunk, and for its verdict after the last one. */
  timeoutMs: number;
  /** Larger files, in bytes, are not sent to clamd. */
  maxSize: number;
}

/** How long clamd may take to accept a connection, and to tell its version. */
const CONNECT_MS = 5_000;

/** clamd's answers have one line. */
const MAX_ANSWER = 4_096;

/** The greatest length of a chunk. */
const LARGEST_CHUNK = 2 ** 32 - 1;

const TOO_LONG = 'INSTREAM size limit exceeded';

/** The length of a chunk, as it stands before it; 0 ends the stream. */
function lengthField(bytes: number): Buffer {
  const field = Buffer.alloc(4);
  field.writeUInt32BE(bytes);
  return field;
}

export function createClamd({ address, timeoutMs, maxSize }: ClamdConfig): Scanner {
  async function version(signal?: AbortSignal): Promise<string> {
    const connection = openConnection(address, signal);
    try {
      connection.socket.write('zVERSION\0');
      return (await within(CONNECT_MS, connection.answer, 'clamd')).trim();
    } catch (error) {
      signal?.throwIfAborted();
      throw away(error);
    } finally {
      connection.socket.destroy();
    }
  }

  return {
    version,
    begin(size, signal) {
      if (size > maxSize) return refuse(() => version(signal));
      // The scan begins after the answer: the signatures in use then are at least as new as the version says.
      const begun = version(signal).then((known) => ({
        version: known,
        stream: openStream(address, timeoutMs, signal),
      }));
      begun.catch(() => {});
      let stream: Stream | undefined;
      return {
        push(chunk) {
          if (stream) return stream.write(chunk);
          return begun.then((ready) => {
            stream = ready.stream;
            return stream.write(chunk);
          });
        },
        async end(): Promise<ScanResult> {
          const ready = await begun;
          return { verdict: await ready.stream.end(), version: ready.version };
        },
      };
    },
  };
}

/** For a file that clamd would refuse: none of its bytes is sent. */
function refuse(version: () => Promise<string>): Scan {
  return {
    push: () => undefined,
    end: async () => ({ verdict: { kind: 'too_large' }, version: await version() }),
  };
}

interface Stream {
  write(chunk: Buffer): Promise<void> | undefined;
  end(): Promise<Verdict>;
}

function openStream(address: ClamdAddress, timeoutMs: number, signal: AbortSignal): Stream {
  const { socket, answer } = openConnection(address, signal);
  let outcome: { answer: string } | { error: unknown } | undefined;
  let sent = 0;
  let wake = () => {};
  socket.on('drain', () => wake());
  const answered = answer.catch(async (error: unknown) => {
    if (!signal.aborted && (await refusesLength(address, sent))) return TOO_LONG;
    throw error;
  });
  answered.then(
    (text) => {
      outcome = { answer: text };
      wake();
    },
    (error: unknown) => {
      outcome = { error };
      wake();
    },
  );
  socket.write('zINSTREAM\0');

  async function settle<T>(work: Promise<T>): Promise<T> {
    try {
      return await within(timeoutMs, work, 'clamd');
    } catch (error) {
      socket.destroy();
      signal.throwIfAborted();
      throw new ScannerLost(error);
    }
  }

  /** Waits until clamd has taken all that was written, or has answered. */
  async function drain(): Promise<void> {
    const drained = new Promise<void>((resolve) => {
      wake = resolve;
    });
    if (!outcome) await settle(drained);
    if (outcome && 'error' in outcome) await settle(Promise.reject(outcome.error));
  }

  return {
    write(chunk) {
      // clamd has refused the stream. Its verdict is known, and the other steps read on. An empty chunk would end the stream.
      if ((outcome && 'answer' in outcome) || chunk.length === 0) return undefined;
      if (!outcome) {
        sent += chunk.length;
        socket.write(lengthField(chunk.length));
        if (socket.write(chunk)) return undefined;
      }
      return drain();
    },
    async end() {
      try {
        if (!outcome) socket.write(lengthField(0));
        return readVerdict(await settle(answered));
      } finally {
        socket.destroy();
      }
    },
  };
}

/** Whether clamd takes no stream of so many bytes. */
async function refusesLength(address: ClamdAddress, bytes: number): Promise<boolean> {
  const { socket, answer } = openConnection(address, undefined);
  try {
    socket.write('zINSTREAM\0');
    socket.end(lengthField(Math.min(bytes, LARGEST_CHUNK)));
    return (await within(CONNECT_MS, answer, 'clamd')).startsWith(TOO_LONG);
  } catch {
    // It waits for these bytes, or it is away.
    return false;
  } finally {
    socket.destroy();
  }
}

interface Connection {
  socket: Socket;
  /** The first answer, without its end; rejects when the connection ends before. */
  answer: Promise<string>;
}

function openConnection(address: ClamdAddress, signal: AbortSignal | undefined): Connection {
  const socket = connect(address);
  const late = setTimeout(() => socket.destroy(new Error('clamd accepts no connection')), CONNECT_MS);
  const giveUp = () => socket.destroy();
  if (signal?.aborted) giveUp();
  signal?.addEventListener('abort', giveUp);
  const answer = new Promise<string>((resolve, reject) => {
    let received = '';
    socket.on('connect', () => clearTimeout(late));
    socket.on('data', (bytes) => {
      received += bytes;
      const end = received.indexOf('\0');
      if (end >= 0) resolve(received.slice(0, end));
      else if (received.length > MAX_ANSWER) socket.destroy(new Error('clamd sent a long answer'));
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(late);
      signal?.removeEventListener('abort', giveUp);
      reject(new Error('clamd closed the connection without an answer'));
    });
  });
  // A caller that has stopped waiting need not handle it.
  answer.catch(() => {});
  return { socket, answer };
}

/** @throws {AppError} scan_failed when the answer is no verdict */
function readVerdict(answer: string): Verdict {
  if (/^stream: OK$/.test(answer)) return { kind: 'clean' };
  if (answer.startsWith(TOO_LONG)) return { kind: 'too_large' };
  const [, threat] = /^stream: (.+) FOUND$/.exec(answer) ?? [];
  // With AlertExceedsMax clamd reports what it has not looked at under names such as Heuristics.Limits.Exceeded.MaxFileSize.
  if (threat?.startsWith('Heuristics.Limits.Exceeded')) return { kind: 'too_large' };
  if (threat) return { kind: 'infected', threat };
  throw new AppError('scan_failed', {
    detail: 'The virus scanner could not scan the file',
    cause: new Error(`clamd: ${answer}`),
    retryable: true,
  });
}

function away(cause: unknown): AppError {
  return new AppError('unavailable', { detail: 'The virus scanner does not answer', cause, retryable: true });
}
