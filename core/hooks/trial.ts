import { type HookReply, readReply } from './answer.js';
import type { HookClient } from './client.js';
import { questionJson } from './question.js';

/** The outcome of a question that an admin has asked to try the receiver. */
export interface HookTrial {
  /** Whether there was an answer that can be read. */
  answered: boolean;
  /** Whether it says yes; null: there is none. */
  accepted: boolean | null;
  /** Milliseconds. */
  durationMs: number;
  /** Why there is no answer; null: there is one. */
  error: string | null;
}

/** The upload that a trial asks about. */
const SAMPLE = {
  ID: '',
  Size: 4,
  SizeIsDeferred: false,
  Offset: 0,
  MetaData: { filename: 'test.txt' },
  IsPartial: false,
  IsFinal: false,
  PartialUploads: null,
  Storage: null,
};

/**
 * Asks the receiver pre-create about an upload that nobody makes, once. A header says so (`Hook-Test`), and nothing depends on
 * the answer. Never throws.
 */
export async function tryHook(client: HookClient): Promise<HookTrial> {
  const started = performance.now();
  const end = (reply: HookReply | undefined, error: string | null): HookTrial => ({
    answered: reply !== undefined,
    accepted: reply ? !reply.rejectsUpload : null,
    durationMs: Math.round(performance.now() - started),
    error,
  });
  try {
    const headers = { 'Hook-Id': 'test', 'Hook-Attempt': '1', 'Hook-Test': 'true' };
    return end(readReply(await client.ask(questionJson('pre-create', SAMPLE), 1, async () => headers)), null);
  } catch (error) {
    return end(undefined, error instanceof Error ? error.message : String(error));
  }
}
