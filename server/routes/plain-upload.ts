import type { Request, Response } from 'express';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import type { Estimates } from '../../core/files/estimates.js';
import { toMetadata } from '../../core/uploads/description.js';
import { receivedFiles } from '../answers/uploads.js';
import type { Keys } from '../auth/keys.js';
import type { Principal } from '../auth/principal.js';
import { codingOf, decode, refuseCoding } from '../http/content-coding.js';
import type { Drain } from '../http/drain.js';
import { readBody } from '../http/request-body.js';
import { countIn, type Limits } from '../limits/limits.js';
import { isForm, readForm } from '../plain/form-files.js';
import {
  type PlainUploadDeps,
  type ReceivedFile,
  receiveFile,
  type Sender,
  shutsDown,
} from '../plain/upload.js';
import { type HookedDeps, hooked, setHookHeaders } from '../uploads/hooked.js';
import { NOBODY } from './answers.js';
import { sentFileToJson } from './file-json.js';
import { type AnyRoute, route, signedInActor, userOf } from './route.js';

interface PlainRouteDeps extends PlainUploadDeps, HookedDeps {
  estimates: Estimates;
  keys: Keys;
  drain: Drain;
  limits: Limits;
}

/** Types that clients send when they do not know the type. */
const UNTOLD = ['application/octet-stream', 'application/x-www-form-urlencoded'];

/** The problems of creating an upload, of receiving its bytes, and of its file. */
const PROBLEMS = [
  'too_large',
  'quota_exceeded',
  'type_not_allowed',
  'checksum_mismatch',
  'size_mismatch',
  'unsupported_media_type',
  'request_timeout',
  'not_found',
  'gone',
  'wrong_state',
  'locked',
  'storage_full',
  'refused',
  'hook_unusable',
] as const;

/** Bytes by which coding may enlarge an incompressible body, besides one percent. */
const CODING_OVERHEAD = 4096;

const plainQuery = z.object({
  filename: z.string().optional().describe('Of a body that is one file'),
  sha256: z.string().optional().describe('Hex; of a body that is one file'),
  settings: z.string().optional().describe('JSON, as ImageSettings; in a form also a field before the files'),
});

/** Routes that take uploads in one request, for clients without tus. */
export function plainUploadRoutes(allDeps: PlainRouteDeps): AnyRoute[] {
  return [
    route({
      method: 'post',
      path: '/api/files',
      access: 'upload',
      limit: 'uploads',
      summary:
        'Upload files in one request: the body is one file, or a form (multipart/form-data) with files',
      query: plainQuery,
      accepts: ['*/*', 'multipart/form-data'],
      answers: { 201: receivedFiles },
      problems: PROBLEMS,
      async handle(call) {
        const { req, res } = call;
        const { deps, answer } = hooked(allDeps, req);
        const stop = new AbortController();
        const sender: Sender = {
          principal: userOf(call),
          actor: signedInActor(call),
          // Another request has to wait: this client cannot resume an interrupted upload.
          onRequested: () => {
            if (deps.drain.draining) stop.abort();
            return deps.drain.draining;
          },
          stopped: stop.signal,
        };
        try {
          const received = isForm(req)
            ? await receiveForm(deps, sender, call)
            : [await receiveRaw(deps, sender, req, call.query)];
          setHookHeaders(res, answer());
          return { files: await Promise.all(received.map((one) => toJson(deps, one, sender.principal))) };
        } catch (error) {
          if (res.destroyed) return NOBODY;
          if (stop.signal.aborted) res.setHeader('Connection', 'close');
          throw error;
        }
      },
    }),
  ];
}

async function toJson(deps: PlainRouteDeps, { file, sha256 }: ReceivedFile, principal: Principal) {
  const etaSeconds = await deps.estimates.secondsLeft(file);
  return { ...(await sentFileToJson(deps, file, principal, sha256)), sha256, etaSeconds };
}

function receiveRaw(
  deps: PlainRouteDeps,
  sender: Sender,
  req: Request,
  { filename, sha256, settings }: z.infer<typeof plainQuery>,
): Promise<ReceivedFile> {
  const coding = codingOf(req);
  const isChunked = req.headers['transfer-encoding'] !== undefined;
  return receiveFile(deps, sender, {
    metadata: describe({ filename, type: req.get('Content-Type'), sha256, settings }),
    length: isChunked || coding ? null : Number(req.headers['content-length'] ?? 0),
    open: (most) =>
      coding ? decode(coding, readBody(req, Math.ceil(most * 1.01) + CODING_OVERHEAD)) : readBody(req),
  });
}

/** Receives one file after the other. Files before a failing one stay stored, and the error names them. */
async function receiveForm(
  deps: PlainRouteDeps,
  sender: Sender,
  { req, res, query }: { req: Request; res: Response; query: z.infer<typeof plainQuery> },
): Promise<ReceivedFile[]> {
  refuseCoding(req);
  if (query.filename !== undefined || query.sha256 !== undefined) {
    throw new AppError('invalid_request', {
      detail: 'filename and sha256 in the query describe a body that is one file; this one is a form',
    });
  }
  const received: ReceivedFile[] = [];
  try {
    const body = readBody(req);
    if (sender.stopped.aborted) body.end();
    sender.stopped.addEventListener('abort', body.end);
    for await (const { content, ...described } of readForm(req, body)) {
      if (received.length > 0 && sender.principal.uploadToken) {
        throw new AppError('forbidden', { detail: 'An upload token sends one file; the form holds more' });
      }
      // The route has counted the first one.
      if (received.length > 0) await countIn(deps.limits.bucket('uploads'), req, res);
      const file = await receiveFile(deps, sender, {
        metadata: describe({ settings: query.settings, ...described }),
        length: null,
        open: () => content,
      });
      received.push(file);
    }
  } catch (error) {
    // A form that we have cut short looks broken to the parser.
    const told = sender.stopped.aborted ? shutsDown(error) : error;
    throw received.length > 0 ? addStored(told, received) : told;
  }
  if (received.length === 0) {
    throw new AppError('invalid_request', {
      detail: 'The form holds no file: send at least one part with a filename',
    });
  }
  return received;
}

function describe(described: Parameters<typeof toMetadata>[0]): Record<string, string> {
  const { type } = described;
  const isTold = type && !UNTOLD.includes(type.split(';')[0]?.trim().toLowerCase() ?? '');
  return toMetadata({ ...described, type: isTold ? type : undefined });
}

function addStored(error: unknown, received: ReceivedFile[]): unknown {
  if (!(error instanceof AppError)) return error;
  const ids = received.map(({ file }) => file.id).join(', ');
  const detail = `File ${received.length + 1} of the form: ${error.message}. Those before it are stored: ${ids}`;
  return new AppError(error.code, { detail, cause: error, retryable: error.retryable });
}
