import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Server } from 'node:https';
import { createSecureContext } from 'node:tls';
import { ConfigError, type TlsFiles } from '../../core/config.js';
import type { Logger } from '../../core/log.js';

/*
 * The certificate of an HTTPS server, in files that other programs replace (certbot, Kubernetes, …). They replace a file, a
 * link to it, or the folder, which a watch of the file system would not always notice. So the files are read every few
 * seconds, and their content decides.
 */

/** In PEM. */
export interface Certificate {
  /** The server's certificate, and those of the authorities between it and a root. */
  cert: string;
  key: string;
}

/** How often the files are read, in milliseconds. */
const READ_EVERY_MS = 5_000;

/** @throws {ConfigError} naming the variable whose file cannot be used */
export async function readCertificate({ certFile, keyFile }: TlsFiles): Promise<Certificate> {
  const [cert, key] = await Promise.all([
    readPem('TLS_CERT_FILE', certFile),
    readPem('TLS_KEY_FILE', keyFile),
  ]);
  const certificate = parse(
    'TLS_CERT_FILE must begin with a certificate in PEM',
    () => new X509Certificate(cert),
  );
  const privateKey = parse('TLS_KEY_FILE must be a private key in PEM without a passphrase', () =>
    createPrivateKey(key),
  );
  if (!certificate.checkPrivateKey(privateKey)) {
    throw new ConfigError('TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE');
  }
  // Also reads the other certificates of the file.
  parse('TLS_CERT_FILE holds a certificate that cannot be used', () => createSecureContext({ cert, key }));
  return { cert, key };
}

async function readPem(name: string, path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const { code = 'unknown' } = error as NodeJS.ErrnoException;
    throw new ConfigError(`${name}=${path}: cannot be read (${code})`, { cause: error });
  }
}

function parse<T>(message: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new ConfigError(message, { cause: error });
  }
}

/**
 * Gives new connections the certificate in the files whenever that changes. A certificate that cannot be used is logged, and
 * the one before stays: its key may just not be written yet.
 * @param used the certificate that the server has now
 */
export function followCertificate(server: Server, files: TlsFiles, used: Certificate, log: Logger): void {
  let seen = digestOf(used);
  let refused: string | undefined;

  async function look(): Promise<void> {
    try {
      const next = await readCertificate(files);
      refused = undefined;
      if (digestOf(next) === seen) return;
      server.setSecureContext(next);
      seen = digestOf(next);
      log.info({ validTo: new X509Certificate(next.cert).validTo }, 'new certificate');
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (reason !== refused) log.error({ reason }, 'new certificate refused; the one before is used');
      refused = reason;
    }
  }

  let isLooking = false;
  setInterval(async () => {
    // A disk may take longer than the pause.
    if (isLooking) return;
    isLooking = true;
    await look();
    isLooking = false;
  }, READ_EVERY_MS).unref();
}

function digestOf({ cert, key }: Certificate): string {
  return createHash('sha256').update(cert).update('\0').update(key).digest('hex');
}
