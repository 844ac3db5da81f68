import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { setTimeout as pause } from 'node:timers/promises';

/* Sends questions to the receiver of hooks, with the limits and retries of tusd (pkg/hooks/http/http.go). */

/** Bytes of an answer that are read; tusd's usual limit is 5 KiB. */
const MAX_ANSWER = 64 * 1024;

/** Connections to the receiver that one process opens at most. */
const MAX_SOCKETS = 64;

/** The receiver gave no usable answer; the message says why, for the log. */
export class HookFailed extends Error {
  override name = 'HookFailed';
  /** @param passes whether the same question may be answered a moment later */
  constructor(
    message: string,
    readonly passes: boolean,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

export interface HookClientOptions {
  /** May have a user and a password, which are sent as Basic credentials. */
  url: string;
  /** For all attempts together, in milliseconds. */
  timeoutMs: number;
  /** Pause before the next attempt, in milliseconds. */
  backoffMs: number;
}

export interface HookClient {
  /**
   * Sends one question, and again if the receiver is away or answers 5xx.
   * @param headersOf returns the headers of the next attempt
   * @returns the JSON of the answer, not parsed yet
   * @throws {HookFailed}; and the errors of `headersOf`
   */
  ask(
    body: string,
    attempts: number,
    headersOf: () => Promise<Record<string, string | string[]>>,
  ): Promise<string>;
  /** Ends the questions that are under way, and closes the connections. */
  close(): void;
}

export function openHookClient({ url, timeoutMs, backoffMs }: HookClientOptions): HookClient {
  const { request, Agent } = url.startsWith('https:') ? https : http;
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS });
  const closing = new AbortController();
  // Node sends a user and a password in it as Basic credentials.
  const target = new URL(url);

  /** @throws {HookFailed} */
  async function askOnce(
    body: string,
    headers: Record<string, string | string[]>,
    signal: AbortSignal,
  ): Promise<string> {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const outgoing = request(target, {
        method: 'POST',
        agent,
        signal,
        headers: {
          ...headers,
          'Content-Type': 'application/json',
          'Content-Length': Buffer.byteLength(body),
        },
      });
      outgoing.on('response', resolve).on('error', reject);
      outgoing.end(body);
    });
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299) {
      // The rest is not wanted, and a redirect is not followed.
      response.destroy();
      throw new HookFailed(`the hook answered ${status}`, status >= 500);
    }
    const type = response.headers['content-type'];
    if (type?.split(';')[0]?.trim().toLowerCase() !== 'application/json') {
      response.destroy();
      throw new HookFailed(`the hook answered ${type ?? 'no type'} instead of application/json`, false);
    }
    return readText(response);
  }

  return {
    async ask(body, attempts, headersOf) {
      const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), closing.signal]);
      for (let left = attempts - 1; ; left--) {
        const headers = await headersOf();
        try {
          return await askOnce(body, headers, signal);
        } catch (error) {
          if (signal.aborted) throw whyAborted(closing.signal, timeoutMs, error);
          const failed = error instanceof HookFailed ? error : new HookFailed(reasonOf(error), true, error);
          if (left <= 0 || !failed.passes) throw failed;
        }
        await pause(backoffMs, undefined, { signal }).catch((error: unknown) => {
          throw whyAborted(closing.signal, timeoutMs, error);
        });
      }
    },
    close() {
      closing.abort();
      agent.destroy();
    },
  };
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response) {
    size += chunk.byteLength;
    if (size > MAX_ANSWER) {
      response.destroy();
      throw new HookFailed(`the hook answered more than ${MAX_ANSWER} bytes`, false);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function reasonOf(error: unknown): string {
  return `the hook cannot be reached: ${error instanceof Error ? error.message : error}`;
}

function whyAborted(closing: AbortSignal, timeoutMs: number, cause: unknown): HookFailed {
  const why = closing.aborted ? 'this process stops' : `the hook gave no answer within ${timeoutMs} ms`;
  return new HookFailed(why, true, cause);
}
