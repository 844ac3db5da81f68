import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { makePair } from './support/certificates.js';
import { PASSWORD } from './support/client.js';
import { type Processes, startProcesses } from './support/processes.js';
import { exchange, formRequest } from './support/raw-http.js';
import { newAddress } from './support/sign-in.js';
import { until } from './support/until.js';

/* HTTPS by the server itself, with a certificate in files that are replaced while it runs. */

let folder: string;
let processes: Processes;
/** The server reads links, as certbot and Kubernetes make them. */
let certFile: string;
let keyFile: string;

/** Makes a pair in the folder, signed by itself or by another pair. Returns the certificate's number. */
async function make(name: string, issuer?: string): Promise<string> {
  const names = { commonName: name, subjectAltName: 'IP:127.0.0.1,DNS:localhost' };
  await makePair(join(folder, name), { ...names, issuer: issuer && join(folder, issuer) });
  return new X509Certificate(await readFile(join(folder, `${name}.crt`))).serialNumber;
}

/** Points the server's link to another file, at once. */
async function point(link: string, target: string): Promise<void> {
  await symlink(join(folder, target), `${link}.new`);
  await rename(`${link}.new`, link);
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'landfall-tls-'));
  certFile = join(folder, 'server.crt');
  keyFile = join(folder, 'server.key');
  await make('first');
  await point(certFile, 'first.crt');
  await point(keyFile, 'first.key');
  const env = { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile, LOG_LEVEL: 'info' };
  processes = await startProcesses(env, ['server']);
});

afterAll(async () => {
  await processes?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** The certificates that a new connection gets, and how it is encrypted. */
async function handshake(): Promise<{
  serial: string;
  chain: number;
  protocol: string | null;
  alpn: unknown;
}> {
  const socket = await new Promise<TLSSocket>((resolve, reject) => {
    const { port } = new URL(processes.url);
    const options = { host: '127.0.0.1', port: Number(port), rejectUnauthorized: false };
    const made = connectTls({ ...options, ALPNProtocols: ['h2', 'http/1.1'] }, () => resolve(made));
    made.on('error', reject);
  });
  const { serialNumber, issuerCertificate } = socket.getPeerCertificate(true);
  const chain = issuerCertificate && issuerCertificate.serialNumber !== serialNumber ? 2 : 1;
  const answer = { serial: serialNumber, chain, protocol: socket.getProtocol(), alpn: socket.alpnProtocol };
  socket.destroy();
  return answer;
}

interface Options {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
}

async function ask(path: string, { method = 'GET', headers = {}, body }: Options = {}) {
  const ca = await readFile(join(folder, 'first.crt'));
  return new Promise<{ status: number; headers: NodeJS.Dict<string | string[]>; text: string }>(
    (resolve, reject) => {
      const sent = request(
        `${processes.url}${path}`,
        { method, headers, ca, agent: false, servername: 'localhost' },
        (res) => {
          const chunks: Buffer[] = [];
          res.on('data', (chunk) => chunks.push(chunk));
          res.on('end', () =>
            resolve({
              status: res.statusCode ?? 0,
              headers: res.headers,
              text: Buffer.concat(chunks).toString(),
            }),
          );
        },
      );
      sent.on('error', reject);
      sent.end(body);
    },
  );
}

test('an upload goes through, addresses are https, and cookies are for TLS only', async () => {
  expect(processes.url).toMatch(/^https:/);
  expect((await ask('/health/ready')).status).toBe(200);
  const registered = await ask('/api/auth/register', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Origin: processes.url },
    body: JSON.stringify({ email: newAddress(), password: PASSWORD }),
  });
  expect(registered.status).toBe(201);
  const cookies = [registered.headers['set-cookie']].flat();
  expect(cookies.length).toBeGreaterThan(0);
  for (const cookie of cookies) expect(cookie).toContain('Secure');
  // Other programs on this machine may speak plain HTTP at other ports.
  expect(registered.headers['strict-transport-security']).toBeUndefined();
  const elsewhere = await ask('/api/auth', { headers: { Host: 'files.example.org' } });
  expect(elsewhere.headers['strict-transport-security']).toBe('max-age=31536000');

  const { accessToken } = JSON.parse(registered.text);
  const Authorization = `Bearer ${accessToken}`;
  const content = Buffer.alloc(3_000_000, 'x');
  const created = await ask('/uploads', {
    method: 'POST',
    headers: {
      Authorization,
      'Tus-Resumable': '1.0.0',
      'Upload-Length': String(content.length),
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': String(content.length),
    },
    body: content,
  });
  expect([created.status, created.headers['upload-offset']]).toEqual([201, String(content.length)]);
  expect(created.headers.location).toMatch(`${processes.url}/uploads/`);
});

test('a body that is refused at once gets its answer', async () => {
  const refused = await ask('/api/files', { method: 'POST', body: Buffer.alloc(4_000_000) });
  expect(refused.status).toBe(401);
});

test('plain HTTP and noise on the port harm nobody', async () => {
  const plain = processes.url.replace('https:', 'http:');
  expect(await exchange(plain, formRequest('GET', '/', {}))).toBeUndefined();
  expect(await exchange(plain, Buffer.from('\x16\x03\x01\x00\x00noise'))).toBeUndefined();
  expect((await ask('/health/live')).status).toBe(200);
  expect(await handshake()).toMatchObject({ protocol: 'TLSv1.3', alpn: 'http/1.1' });
});

test('a new pair is used without a restart, with the chain in its file', async () => {
  const before = await handshake();
  const { port } = new URL(processes.url);
  const held = connectTls({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false });
  let text = '';
  held.on('data', (chunk) => {
    text += chunk;
  });
  const serial = await make('leaf', 'first');
  await writeFile(
    join(folder, 'chain.crt'),
    (await readFile(join(folder, 'leaf.crt'), 'utf8')) + (await readFile(join(folder, 'first.crt'), 'utf8')),
  );
  // Not at once, as programs do that renew certificates: between the two the pair does not fit.
  await point(certFile, 'chain.crt');
  await until('the refusal', () => processes.logOf('server').includes('new certificate refused'));
  expect((await handshake()).serial).toBe(before.serial);
  await point(keyFile, 'leaf.key');
  await until('the new one', async () => (await handshake()).serial === serial);
  expect((await handshake()).chain).toBe(2);
  // A client that trusts the authority accepts it.
  expect((await ask('/health/live')).status).toBe(200);
  // Connections go on.
  held.write('GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await until('the answer', () => text.includes('200 OK'));
  held.destroy();
});

test.each([
  ['nonsense', 'no certificate'],
  ['an empty file', ''],
])('%s does not replace a certificate that works', async (name, content) => {
  const { serial } = await handshake();
  const refusals = () => processes.logOf('server').split('new certificate refused').length;
  const before = refusals();
  await writeFile(join(folder, name), content);
  await point(certFile, name);
  await until('the refusal', () => refusals() > before);
  expect((await handshake()).serial).toBe(serial);
  await point(certFile, 'chain.crt');
  // Until the file is right again, the next fault would be the same.
  const again = await make('other');
  await point(keyFile, 'other.key');
  await point(certFile, 'other.crt');
  await until('another one', async () => (await handshake()).serial === again);
});

test('a server does not start with files that it cannot use', async () => {
  await make('another');
  await writeFile(join(folder, 'text'), 'text');
  for (const [cert, key] of [
    ['first.crt', 'another.key'],
    ['missing', 'first.key'],
    ['first.crt', 'missing'],
    ['text', 'first.key'],
    ['first.crt', 'text'],
  ] as const) {
    await processes.stop('server');
    const files = { TLS_CERT_FILE: join(folder, cert), TLS_KEY_FILE: join(folder, key) };
    await expect(processes.start('server', files)).rejects.toThrow('ended with 1');
  }
});
