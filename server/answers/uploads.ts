import { z } from 'zod';
import { file, fileStatus, guestFile } from './files.js';
import { bytes, fault, id, pageOf, timestamp } from './shapes.js';

export const upload = z
  .object({
    id,
    kind: z
      .enum(['file', 'partial', 'final'])
      .describe('`partial`: a part of a file that a final upload will name (tus, Concatenation)'),
    status: z.enum(['uploading', 'finished', 'expired', 'terminated']),
    offset: bytes,
    length: bytes.nullable().describe('Bytes; null while the client has not told it'),
    metadata: z.record(z.string(), z.string().nullable()),
    direct: z.boolean().describe('Whether the bytes go straight to the store'),
    error: fault.omit({ step: true }).nullable(),
    file: z.object({ status: fileStatus, error: fault.nullable() }).nullable(),
    createdAt: timestamp,
    expiresAt: timestamp.nullable(),
  })
  .meta({ id: 'Upload' });

export const uploadPage = pageOf(upload);

/** Addresses to which a client sends the parts of an upload. */
export const signedParts = z.object({
  id,
  partSize: bytes,
  partCount: z.int().min(0),
  parts: z.array(z.object({ number: z.int().min(1), size: bytes, url: z.string() })),
  expiresAt: timestamp,
});

const types = z
  .array(z.string())
  .describe('Media types such as `image/png`, or ranges of them such as `image/*`');

export const uploadInfo = z.object({
  maxSize: bytes.describe('Bytes of one upload'),
  maxSizeByType: z
    .array(z.object({ type: z.string(), maxSize: bytes }))
    .describe(
      'Lower limits by type. That of a type comes before that of its range; `application/octet-stream` is the type of files that declare none',
    ),
  expiryHours: z.int().describe('An unfinished upload is removed when it receives no bytes for this long'),
  trashDays: z
    .number()
    .nullable()
    .describe(
      'A deleted file can be restored for so long, or until the trash is too full; null: only the latter',
    ),
  retentionHours: z
    .number()
    .nullable()
    .describe('Files are deleted for good at this age; null: they are kept until somebody deletes them'),
  chunkSize: bytes.describe(
    'A good size for clients that send a file in pieces. One request with the whole file is faster, whatever its size',
  ),
  metadata: z
    .object({ maxKeys: z.int(), maxBytes: bytes })
    .describe('Limits of the description of an upload'),
  formats: z.object({
    accepted: types,
    metadata: types.describe('Types that are read for dimensions, tags and other facts'),
    thumbnails: types.describe(
      'Types that get thumbnails; an image whose format cannot be decoded here gets a warning instead, and some documents have no picture',
    ),
  }),
  plain: z
    .object({
      maxFiles: z.int().describe('Files in one form'),
      contentCodings: z.array(z.string()).describe('Codings of a body that is one file'),
    })
    .describe('POST /api/files'),
  tus: z.object({
    version: z.string(),
    extensions: z.array(z.string()),
    checksumAlgorithms: z.array(z.string()),
  }),
  ietf: z
    .object({ interopVersions: z.array(z.int()), digestAlgorithms: z.array(z.string()) })
    .describe('draft-ietf-httpbis-resumable-upload'),
  direct: z
    .object({ maxAddresses: z.int().describe('Addresses of parts that one request may ask for') })
    .nullable()
    .describe('POST /api/uploads/presign; null: bytes cannot be sent to the store itself'),
});

const estimated = {
  etaSeconds: z
    .int()
    .nullable()
    .describe('Seconds until the file is processed; null: no such files are known'),
};

/** The file of an upload whose parts went straight to the store. */
export const completedFile = z.union([file.extend(estimated), guestFile.extend(estimated)]);

const measured = { sha256: z.string().describe('Hex, of the bytes as received'), ...estimated };

export const receivedFiles = z.object({
  files: z.array(z.union([file.extend(measured), guestFile.extend(measured)])),
});

export type UploadJson = z.input<typeof upload>;

export type UploadInfoJson = z.input<typeof uploadInfo>;
