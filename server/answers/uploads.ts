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

const measured = { sha256: z.string().describe('Hex, of the bytes as received') };

export const receivedFiles = z.object({
  files: z.array(z.union([file.extend(measured), guestFile.extend(measured)])),
});

export type UploadJson = z.input<typeof upload>;
