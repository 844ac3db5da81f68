import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** A key and a certificate, as paths without their endings `.key` and `.crt`. */
interface PairOptions {
  commonName: string;
  /** Such as `IP:127.0.0.1,DNS:localhost`. */
  subjectAltName: string;
  /** The pair that signs it; undefined: it signs itself. */
  issuer?: string | undefined;
}

/** Makes `<path>.key` and `<path>.crt`, in PEM, with the program openssl. */
export async function makePair(
  path: string,
  { commonName, subjectAltName, issuer }: PairOptions,
): Promise<void> {
  const run = (...args: string[]) => promisify(execFile)('openssl', args);
  const key = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-keyout',
    `${path}.key`,
  ];
  const names = ['-subj', `/CN=${commonName}`, '-addext', `subjectAltName=${subjectAltName}`];
  if (!issuer) {
    await run('req', '-x509', '-days', '2', ...key, ...names, '-out', `${path}.crt`);
    return;
  }
  await run('req', ...key, ...names, '-out', `${path}.csr`);
  await run(
    ...['x509', '-req', '-days', '2', '-copy_extensions', 'copy', '-in', `${path}.csr`],
    ...['-CA', `${issuer}.crt`, '-CAkey', `${issuer}.key`, '-out', `${path}.crt`],
  );
}
