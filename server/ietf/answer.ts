import type { Response } from 'express';

/** An answer when all goes well. */
export interface Answer {
  status: number;
  headers: Record<string, string>;
  /** Undefined: the answer is empty. */
  json?: object;
}

export function sendAnswer(res: Response, { status, headers, json }: Answer): void {
  if (res.destroyed) return;
  res.status(status).setHeaders(new Map(Object.entries(headers)));
  if (json) res.json(json);
  else res.end();
}
