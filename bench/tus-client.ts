import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';

/*
 * As much of tus as a bench needs, over bare node:http. The client costs little and so changes the figures little: its
 * bytes come from one block that was made beforehand.
 */

export interface TusServer {
  url: string;
  /** Sent with every request. */
  headers: Record<string, string>;
}

const agent = new Agent({ keepAlive: true });
const block = randomBytes(1024 ** 2);

/** Sends a request with a body of `length` bytes and reads the answer to its end. Throws at a status from 400. */
async function exchange(
  method: string,
  url: string,
  headers: Record<string, string | number>,
  length = 0,
): Promise<IncomingMessage> {
  const outgoing = request(url, { method, agent, headers: { ...headers, 'Content-Length': length } });
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('error', reject);
    outgoing.once('response', (response) => {
      response.resume().once('end', () => resolve(response));
      if ((response.statusCode ?? 0) < 400) return;
      reject(new Error(`${method} ${url} answered ${response.statusCode}`));
      outgoing.destroy();
    });
  });
  for (let left = length; left > 0; left -= block.length) {
    const flowing = outgoing.write(left < block.length ? block.subarray(0, left) : block);
    if (!flowing) await Promise.race([once(outgoing, 'drain'), answered]);
  }
  outgoing.end();
  return answered;
}

/** Creates an upload of `length` bytes. @returns its address */
export async function createUpload(server: TusServer, length: number): Promise<string> {
  const headers = { ...server.headers, 'Tus-Resumable': '1.0.0', 'Upload-Length': length };
  const { location } = (await exchange('POST', `${server.url}/uploads`, headers)).headers;
  if (!location) throw new Error(`${server.url} answered no Location`);
  return location;
}

/** Sends `length` bytes in one PATCH. */
export async function patchUpload(
  server: TusServer,
  location: string,
  offset: number,
  length: number,
): Promise<void> {
  const headers = {
    ...server.headers,
    'Tus-Resumable': '1.0.0',
    'Upload-Offset': offset,
    'Content-Type': 'application/offset+octet-stream',
  };
  await exchange('PATCH', location, headers, length);
}

/** Asks how much of an upload the server has. @returns its offset */
export async function headUpload(server: TusServer, location: string): Promise<number> {
  const answer = await exchange('HEAD', location, { ...server.headers, 'Tus-Resumable': '1.0.0' });
  return Number(answer.headers['upload-offset']);
}

/** Ends an upload and deletes its bytes. */
export async function terminateUpload(server: TusServer, location: string): Promise<void> {
  await exchange('DELETE', location, { ...server.headers, 'Tus-Resumable': '1.0.0' });
}

/** Creates an upload of `length` bytes and sends it in PATCHes of at most `patch` bytes. @returns its address */
export async function upload(server: TusServer, length: number, patch = length): Promise<string> {
  const location = await createUpload(server, length);
  for (let offset = 0; offset < length; offset += patch) {
    await patchUpload(server, location, offset, Math.min(patch, length - offset));
  }
  return location;
}
