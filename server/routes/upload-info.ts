import type { z } from 'zod';
import { DOCUMENT_TYPES, DRAWN_TYPES } from '../../core/media/documents/kinds.js';
import { IMAGES, MEDIA } from '../../core/media/media-types.js';
import type { Storage } from '../../core/storage/storage.js';
import { MAX_BYTES, MAX_KEYS } from '../../core/uploads/description.js';
import { MAX_ADDRESSES } from '../../core/uploads/direct.js';
import type { SizeLimits } from '../../core/uploads/size-limits.js';
import { uploadInfo } from '../answers/uploads.js';
import { CONTENT_CODINGS } from '../http/content-coding.js';
import { DIGEST_SIZES } from '../ietf/request.js';
import { VERSIONS } from '../ietf/versions.js';
import { MAX_FILES } from '../plain/form-files.js';
import { ALGORITHMS } from '../tus/checksum.js';
import { EXTENSIONS, VERSION } from '../tus/options.js';
import { type AnyRoute, route } from './route.js';

interface InfoDeps extends SizeLimits {
  uploadExpiryHours: number;
  /** 0: no limit. */
  trashDays: number;
  /** 0: no limit. */
  fileRetentionHours: number;
  storage: Pick<Storage, 'direct'>;
}

/** A good size for the pieces of a client that sends pieces: large enough for full speed, small enough to send again. */
const CHUNK_SIZE = 16 * 1024 ** 2;

/** Tells clients what they can upload, and how. It is the same for everybody; GET /api/me tells a user's quota. */
export function uploadInfoRoutes(deps: InfoDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/uploads/info',
      access: 'public',
      limit: 'status',
      summary: 'What can be uploaded, and how: limits, formats, protocols',
      answers: { 200: uploadInfo },
      handle: async () => describeUploads(deps),
    }),
  ];
}

function describeUploads(deps: InfoDeps): z.output<typeof uploadInfo> {
  return {
    maxSize: deps.maxUploadSize,
    maxSizeByType: [...deps.maxSizeByType],
    expiryHours: deps.uploadExpiryHours,
    trashDays: deps.trashDays || null,
    retentionHours: deps.fileRetentionHours || null,
    chunkSize: CHUNK_SIZE,
    metadata: { maxKeys: MAX_KEYS, maxBytes: MAX_BYTES },
    formats: {
      accepted: ['*/*'],
      metadata: [IMAGES, ...MEDIA, ...DOCUMENT_TYPES],
      thumbnails: [IMAGES, ...DRAWN_TYPES],
    },
    plain: { maxFiles: MAX_FILES, contentCodings: CONTENT_CODINGS },
    tus: { version: VERSION, extensions: EXTENSIONS, checksumAlgorithms: ALGORITHMS },
    ietf: { interopVersions: VERSIONS, digestAlgorithms: Object.keys(DIGEST_SIZES) },
    direct: deps.storage.direct ? { maxAddresses: MAX_ADDRESSES } : null,
  };
}
