import type { Response } from 'express';
import type { HookAnswer } from '../../core/uploads/hooks.js';
import { mergeHookAnswer, setHookHeaders } from '../uploads/hooked.js';

/** An answer when all goes well. */
export interface Answer {
  status: number;
  headers: Record<string, string>;
  /** Undefined: the answer is empty. */
  json?: object;
}

/** @param hook what the hooks want in the answer */
export function sendAnswer(res: Response, { status, headers, json }: Answer, hook: HookAnswer): void {
  if (res.destroyed) return;
  const merged = mergeHookAnswer({ status }, hook);
  res.status(merged.status).setHeaders(new Map(Object.entries(headers)));
  setHookHeaders(res, hook);
  if (json && merged.body === undefined) res.json(json);
  else res.end(merged.body);
}
