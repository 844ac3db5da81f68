import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { makePair } from './certificates.js';
import { startDnsServer } from './dns-server.js';
import { startGuarded } from './guarded.js';
import { freePort } from './services/port.js';
import { until } from './until.js';

export interface Haproxy {
  /** Plain HTTP. */
  plainUrl: string;
  /** TLS, with HTTP/2. */
  url: string;
  /** In PEM; nobody has signed it. */
  certificate: string;
  /** The environment by which a server listens where the proxy looks for it. */
  servers: { HOST: string; PORT: string; TRUST_PROXY: string }[];
  stop(): Promise<void>;
}

/**
 * Starts HAProxy with the haproxy.cfg that is shipped. As in containers, it finds its servers by DNS, and all of them
 * listen on one port. Their addresses differ: Linux answers on all of 127.0.0.0/8.
 */
export async function startHaproxy(serverCount: number): Promise<Haproxy> {
  const network = `127.${randomInt(1, 255)}.${randomInt(255)}`;
  const host = `${network}.1`;
  const [httpPort, httpsPort, serverPort] = await Promise.all([freePort(), freePort(), freePort()]);
  const hosts = Array.from({ length: serverCount }, (_, index) => `${network}.${index + 2}`);
  const folder = await mkdtemp(join(tmpdir(), 'landfall-haproxy-'));
  const { file, certificate } = await makeCertificate(folder, host);
  const dns = await startDnsServer(hosts);
  const { shell, kill } = startGuarded(
    process.env.HAPROXY_PATH ?? 'haproxy',
    ['-db', '-f', resolve('haproxy.cfg')],
    {
      PATH: process.env.PATH,
      DNS: dns.address,
      HTTP_ADDRESS: `${host}:${httpPort}`,
      HTTPS_ADDRESS: `${host}:${httpsPort}`,
      TLS_PORT: String(httpsPort),
      SERVER_ADDRESS: `server:${serverPort}`,
      TLS_CERTIFICATE: file,
    },
  );
  let log = '';
  shell.stdout.on('data', (chunk) => {
    log += chunk;
  });
  const stop = async () => {
    await kill();
    dns.close();
    await rm(folder, { recursive: true, force: true });
  };
  await until('HAProxy to listen', () => {
    if (shell.stdout.readableEnded) throw new Error(`haproxy did not start: ${log}`);
    return accepts(host, httpsPort);
  }).catch(async (error) => {
    await stop();
    throw error;
  });
  return {
    plainUrl: `http://${host}:${httpPort}`,
    url: `https://${host}:${httpsPort}`,
    certificate,
    servers: hosts.map((HOST) => ({ HOST, PORT: String(serverPort), TRUST_PROXY: '1' })),
    stop,
  };
}

async function accepts(host: string, port: number): Promise<boolean> {
  const socket = connect(port, host);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** A certificate for an address, with its key in the same file, as HAProxy takes it. */
async function makeCertificate(folder: string, address: string) {
  const path = join(folder, 'proxy');
  await makePair(path, { commonName: 'landfall test', subjectAltName: `IP:${address}` });
  const certificate = await readFile(`${path}.crt`, 'utf8');
  const file = join(folder, 'both.pem');
  await writeFile(file, certificate + (await readFile(`${path}.key`, 'utf8')), { mode: 0o600 });
  return { file, certificate };
}
