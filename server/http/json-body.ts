import type { Request } from 'express';
import { AppError } from '../../core/errors.js';
import { refuseCoding } from './content-coding.js';
import { readBody } from './request-body.js';

interface JsonLimits {
  maxBytes: number;
  /** Milliseconds from the start of reading until the whole body has arrived. */
  maxMs: number;
}

const LIMITS: JsonLimits = { maxBytes: 100 * 1024, maxMs: 30_000 };

/** Limit for nested arrays and objects. */
const MAX_DEPTH = 32;

/**
 * Reads the JSON body of a request.
 * @returns undefined if it has none
 * @throws {AppError} unsupported_media_type; too_large; request_timeout; invalid_request
 */
export async function readJson(req: Request, limits = LIMITS): Promise<unknown> {
  const length = Number(req.get('Content-Length') ?? 0);
  if (length === 0 && req.get('Transfer-Encoding') === undefined) return undefined;
  requireJson(req);
  const tooLarge = new AppError('too_large', {
    detail: `The body must have at most ${limits.maxBytes} bytes`,
  });
  if (length > limits.maxBytes) throw tooLarge;
  const bytes = await readAll(req, limits);
  const value = parse(bytes);
  if (value !== undefined) checkText(value);
  return value;
}

function requireJson(req: Request): void {
  const type = req.get('Content-Type') ?? '';
  if (!/^application\/json[ \t]*(;|$)/i.test(type)) {
    throw new AppError('unsupported_media_type', { detail: 'Send Content-Type: application/json' });
  }
  const [, charset = 'utf-8'] = /;[ \t]*charset="?([^";\s]*)/i.exec(type) ?? [];
  if (!/^utf-?8$/i.test(charset)) {
    throw new AppError('unsupported_media_type', { detail: 'Send JSON as UTF-8' });
  }
  // A hundred bytes can unpack to gigabytes, and no client needs that here.
  refuseCoding(req);
}

async function readAll(req: Request, { maxBytes, maxMs }: JsonLimits): Promise<Buffer> {
  const body = readBody(req, maxBytes);
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    body.end();
  }, maxMs);
  try {
    const chunks: Uint8Array[] = [];
    await body.flow((chunk) => {
      chunks.push(chunk);
      return undefined;
    });
    if (isLate) {
      throw new AppError('request_timeout', {
        detail: `The body must arrive within ${maxMs / 1000} seconds`,
      });
    }
    return Buffer.concat(chunks);
  } finally {
    clearTimeout(timer);
  }
}

/** RFC 8259, 8.1: a byte order mark MAY be ignored. */
function parse(bytes: Buffer): unknown {
  let value: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    if (text === '') return undefined;
    value = JSON.parse(text);
  } catch (cause) {
    const what = cause instanceof SyntaxError ? 'JSON' : 'UTF-8';
    throw new AppError('invalid_request', { detail: `The body is not valid ${what}`, cause });
  }
  if (typeof value === 'object' && value !== null) return value;
  throw new AppError('invalid_request', { detail: 'The body must be a JSON object' });
}

/** Refuses strings that PostgreSQL cannot store. Not recursive: deep nesting could exhaust the stack. */
function checkText(root: unknown): void {
  const open: { value: unknown; path: string[] }[] = [{ value: root, path: [] }];
  for (let next = open.pop(); next; next = open.pop()) {
    const { value, path } = next;
    if (typeof value === 'string') checkString(value, path);
    if (typeof value !== 'object' || value === null) continue;
    if (path.length >= MAX_DEPTH) {
      throw new AppError('invalid_request', { detail: `The body is nested deeper than ${MAX_DEPTH} levels` });
    }
    for (const [key, inner] of Object.entries(value)) {
      if (!Array.isArray(value)) checkString(key, path);
      open.push({ value: inner, path: [...path, key] });
    }
  }
}

function checkString(text: string, path: string[]): void {
  const place = `${path.join('.') || 'A key'} in the body`;
  if (text.includes('\0')) {
    throw new AppError('invalid_request', { detail: `${place}: must not hold the character U+0000` });
  }
  if (!text.isWellFormed()) {
    throw new AppError('invalid_request', { detail: `${place}: holds half of a surrogate pair` });
  }
}
