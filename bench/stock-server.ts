import type { AddressInfo } from 'node:net';
import { S3Store } from '@tus/s3-store';
import { Server } from '@tus/server';

/*
 * The yardstick for uploads to S3: @tus/server over @tus/s3-store with their defaults (parts of 8 MiB,
 * metadata cache in memory, memory locker). The SDK has its defaults too, except before a store that refuses its
 * trailing checksums. Ceph 16 answers 411 to them, so there the bench sets STOCK_CHECKSUMS=WHEN_REQUIRED, which favours
 * stock.
 */

const { S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, STOCK_CHECKSUMS } = process.env;

const datastore = new S3Store({
  s3ClientConfig: {
    bucket: S3_BUCKET ?? '',
    endpoint: S3_ENDPOINT ?? '',
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: { accessKeyId: S3_ACCESS_KEY_ID ?? '', secretAccessKey: S3_SECRET_ACCESS_KEY ?? '' },
    ...(STOCK_CHECKSUMS === 'WHEN_REQUIRED'
      ? { requestChecksumCalculation: 'WHEN_REQUIRED', responseChecksumValidation: 'WHEN_REQUIRED' }
      : {}),
  },
});

const server = new Server({ path: '/uploads', datastore }).listen(0, '127.0.0.1', () =>
  console.log(`http://localhost:${(server.address() as AddressInfo).port}`),
);
process.once('disconnect', () => process.exit(0));
