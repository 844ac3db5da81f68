import { supportedMimeTypes } from 'file-type';
import { isAllowedType } from './media-types.js';
import type { Detected } from './types.js';

/** Aliases of media types, so that a client that declares an alias is not refused. */
const ALIASES = new Map<string, string>(
  Object.entries({
    'image/jpg': 'image/jpeg',
    'image/pjpeg': 'image/jpeg',
    'image/x-png': 'image/png',
    'image/heif': 'image/heic',
    'image/apng': 'image/png',
    'image/vnd.microsoft.icon': 'image/x-icon',
    'image/x-bmp': 'image/bmp',
    'image/x-ms-bmp': 'image/bmp',
    'image/psd': 'image/vnd.adobe.photoshop',
    'image/x-photoshop': 'image/vnd.adobe.photoshop',
    'application/x-photoshop': 'image/vnd.adobe.photoshop',
    'image/dng': 'image/x-adobe-dng',
    'image/x-fuji-raf': 'image/x-fujifilm-raf',
    'audio/mp3': 'audio/mpeg',
    'audio/x-wav': 'audio/wav',
    'audio/wave': 'audio/wav',
    'audio/x-m4a': 'audio/mp4',
    'audio/m4a': 'audio/mp4',
    'application/x-zip-compressed': 'application/zip',
    'application/x-gzip': 'application/gzip',
    'audio/x-flac': 'audio/flac',
    'audio/x-aiff': 'audio/aiff',
    'video/x-m4v': 'video/mp4',
    'video/x-matroska': 'video/matroska',
    'audio/x-matroska': 'audio/matroska',
    'video/x-msvideo': 'video/vnd.avi',
    'video/avi': 'video/vnd.avi',
    'text/rtf': 'application/rtf',
    'text/xml': 'application/xml',
    // All formats of Microsoft Office before 2007 use one container.
    'application/msword': 'application/x-cfb',
    'application/vnd.ms-excel': 'application/x-cfb',
    'application/vnd.ms-powerpoint': 'application/x-cfb',
  }),
);

/** Documents that are ZIP archives. */
const IN_ZIP =
  /openxmlformats|opendocument|ms-(word|excel|powerpoint)\..*macroenabled|epub\+zip|java-archive|android\.package|google-earth\.kmz/;

const SVG = 'image/svg+xml';

/** The type that clients declare when they do not know the type. */
export const UNTOLD = 'application/octet-stream';

/** Files of these types are usually not text; a playlist is an exception. */
const MEDIA = /^(image|audio|video|font)\//;

/** Types that are recognised from the bytes. */
const RECOGNISABLE = new Set(
  [
    ...supportedMimeTypes,
    'audio/webm',
    'audio/matroska',
    'application/xml',
    'image/x-pentax-pef',
    'image/x-samsung-srw',
  ].map((mime) => canonical(mime)),
);

/**
 * Whether the content is of a type that the file's upload token allows. The declared type counts where the bytes do not
 * reveal the type (kinds of text, unknown formats), or only the container (a document in a ZIP archive, a vocabulary of
 * XML). It does not count for types that would have been recognised from the bytes.
 */
export function isAllowed(
  declaredType: string | null,
  allowed: string[],
  detected: Detected | null,
): boolean {
  const declared = bare(declaredType ?? '');
  const isText = detected?.mime === 'text/plain';
  const names = allowed.map(nameOf);
  return countsAs(declared, detected).some((type) => {
    // For text, a wildcard such as `image/*` does not count.
    const taken =
      isText && MEDIA.test(type) && type !== SVG ? names.filter((one) => !one.endsWith('/*')) : names;
    return isAllowedType(nameOf(type), taken);
  });
}

/** Whether a file with this declared type may turn out to be of an allowed type. */
export function mayBeAllowed(declared: string, allowed: string[]): boolean {
  const name = nameOf(declared);
  return name === UNTOLD || isAllowedType(name, allowed.map(nameOf));
}

/**
 * The types that the content is of, where each of them counts: those that isAllowed() goes by, but text is never sound or
 * pictures, and bytes that are not recognised, although those of the declared type would be, are of no known type.
 */
export function contentTypes(declaredType: string | null, detected: Detected | null): string[] {
  const types = countsAs(bare(declaredType ?? ''), detected);
  const isText = detected?.mime === 'text/plain';
  const real = types.filter((type) => !isText || !MEDIA.test(type) || type === SVG);
  return real.length > 0 ? real : [detected?.mime ?? UNTOLD];
}

/** The types that the content counts as. */
function countsAs(declared: string, detected: Detected | null): string[] {
  const isTold = declared !== '' && declared !== UNTOLD;
  const { mime, root } = detected ?? {};
  if (mime && mime !== 'text/plain' && mime !== 'application/xml') {
    return mime === 'application/zip' && IN_ZIP.test(declared) ? [mime, declared] : [mime];
  }
  if (mime && root === 'svg') return [mime, SVG];
  if (declared === SVG) return mime ? [mime] : [];
  if (mime && root !== undefined && canonical(declared) === 'application/xml')
    return [declared, 'application/xml'];
  if (mime === 'application/xml') return [mime];
  if (!isTold) return [mime ?? UNTOLD];
  return RECOGNISABLE.has(canonical(declared)) ? [] : [declared];
}

/** Whether a declared type is an alias of the recognised type, or a format that the recognised container may hold. */
export function isKindOf(declared: string, mime: string): boolean {
  if (mime === 'application/zip' && IN_ZIP.test(bare(declared))) return true;
  // Video and audio files share extensions, so clients declare audio files as video.
  return [canonical(declared), canonical(declared).replace(/^video/, 'audio')].includes(canonical(mime));
}

/** One name for each type; all XML-based formats get the same name (RFC 6839, 4.1: `+xml`). */
function canonical(mime: string): string {
  const name = nameOf(mime);
  return name.endsWith('+xml') ? 'application/xml' : name;
}

/** One name for each type, in lower case, without parameters. */
export function nameOf(mime: string): string {
  const name = bare(mime);
  return ALIASES.get(name) ?? name;
}

/** In lower case, without parameters. */
function bare(mime: string): string {
  return mime.split(';')[0]?.trim().toLowerCase() ?? '';
}
