import { timingSafeEqual } from 'node:crypto';
import { AppError } from '../../core/errors.js';
import type { LedgerDeps } from '../../core/uploads/commit.js';
import { type ByteSource, receive } from '../../core/uploads/receive.js';
import { type Call, leaseOf, tellProgress } from './call.js';
import { BeyondLength, ContentMismatch, InconsistentLength, LetGo } from './problems.js';
import type { Digests } from './request.js';

/** Names of the algorithms of RFC 9530 in node:crypto. */
const HASHES = { 'sha-256': 'sha256', 'sha-512': 'sha512' } as const;

type Algorithm = keyof typeof HASHES;
type HashName = (typeof HASHES)[Algorithm];

/**
 * Takes the body of a request into the upload, and tells the client of each commit.
 * @param body.isLast whether the end of the body is the end of the upload
 * @param body.content the digests that the body must have
 * @param body.also further digests to compute
 * @returns the digests of the body
 * @throws {LetGo}; {InconsistentLength}; {ContentMismatch}; and as receive()
 */
export async function takeBody(
  deps: LedgerDeps,
  call: Call,
  body: { source: ByteSource; isLast: boolean; content: Digests; also?: Algorithm[] },
): Promise<Digests> {
  const lease = leaseOf(call);
  const { source, isLast, content, also = [] } = body;
  const known = lease.upload.length !== null;
  let told = lease.upload.offset;
  const algorithms = [...new Set([...also, ...(Object.keys(content) as Algorithm[])])];
  const verify = (found: Partial<Record<HashName, Buffer>>) => {
    if (!fits(renamed(found), content)) throw new ContentMismatch();
  };
  const found = await receive(deps, lease, source, {
    stop: call.stop,
    digests: algorithms.map((name) => HASHES[name]),
    last: isLast,
    ...(Object.keys(content).length > 0 ? { verify } : {}),
    onCommitted(offset) {
      if (offset > told) tellProgress(call, offset);
      told = offset;
    },
  }).catch((error: unknown) => {
    // A decoder or a check of the type may take a body that we have cut short for a broken one.
    if (call.stop.aborted) throw new LetGo();
    const isBeyond = known && error instanceof AppError && error.code === 'too_large';
    throw isBeyond ? new BeyondLength(lease.upload.length) : error;
  });
  if (call.stop.aborted && !call.req.readableEnded) throw new LetGo();
  const { offset, length } = lease.upload;
  if (isLast && offset !== length) {
    if (call.stop.aborted) throw new LetGo();
    throw new InconsistentLength(`The upload ends after ${offset} bytes; ${length} were announced`);
  }
  return renamed(found);
}

/** Digests under their names in RFC 9530. */
function renamed(found: Partial<Record<HashName, Buffer>>): Digests {
  const digests: Digests = {};
  for (const [name, hash] of Object.entries(HASHES) as [Algorithm, HashName][]) {
    if (found[hash]) digests[name] = found[hash];
  }
  return digests;
}

/** Whether digests are the expected ones. Digests that were not computed count as fitting. */
export function fits(digests: Digests, expected: Digests): boolean {
  return (Object.entries(expected) as [Algorithm, Buffer][]).every(([name, wanted]) => {
    const found = digests[name];
    return !found || timingSafeEqual(found, wanted);
  });
}
