import { setTimeout as pause } from 'node:timers/promises';
import * as tus from 'tus-js-client';
import type { Context } from './context.js';
import { EXIT, Failure } from './failure.js';
import type { FileSource } from './file-source.js';
import { USER_AGENT } from './http.js';
import type { Sending } from './tus-upload.js';

/* What is ours in the requests of tus-js-client. */

/** A connection that carries nothing for so long is given up, and the upload continues on another one. */
const IDLE_MS = 120_000;

/** The requests of tus-js-client, which by itself would wait for ever on a connection that has died silently. */
export function impatientStack(): tus.HttpStack {
  const stack = new tus.DefaultHttpStack({ headers: { 'User-Agent': USER_AGENT } });
  return {
    getName: () => 'landfall',
    createRequest(method, url) {
      const request = stack.createRequest(method, url);
      const send = request.send.bind(request);
      request.send = (body) => {
        const answer = send(body);
        const underlying = request.getUnderlyingObject();
        const why = `nothing was carried for ${IDLE_MS / 1000} s`;
        underlying.setTimeout(IDLE_MS, () => underlying.destroy(new Error(why)));
        return answer;
      };
      return request;
    },
  };
}

/** @returns what tus-js-client calls before each request: it authorises it, and describes the file of a new upload */
export function beforeRequest(
  { api, signal }: Context,
  { file, transfer, gate, options }: Sending,
  source: FileSource,
): (request: tus.HttpRequest) => Promise<void> {
  let sha256: string | undefined;
  return async (request) => {
    if (!request.getURL().startsWith(`${api.server}/`)) {
      throw new Failure(EXIT.failed, `The address of the upload is not on ${api.server}`);
    }
    if (request.getMethod() === 'POST') {
      if (options.checksum && sha256 === undefined) {
        transfer.note = 'computing SHA-256';
        sha256 = await source.hash(signal);
        Object.assign(transfer, { note: undefined, startedAt: Date.now() });
      }
      request.setHeader('Upload-Metadata', encodeMetadata({ filename: file.name, sha256 }));
    }
    // Another upload may be told to wait meanwhile.
    while (Date.now() < gate.notBefore) await pause(gate.notBefore - Date.now(), undefined, { signal });
    request.setHeader('Authorization', `Bearer ${await api.credentials.token()}`);
  };
}

function encodeMetadata(metadata: Record<string, string | undefined>): string {
  return Object.entries(metadata)
    .filter(([, value]) => value !== undefined)
    .map(([key, value = '']) => `${key} ${Buffer.from(value).toString('base64')}`)
    .join(',');
}
