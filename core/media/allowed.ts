import { supportedMimeTypes } from 'file-type';
import { isAllowedType } from './media-types.js';
import type { Detected } from './types.js';

/** Names for the same thing, so that they do not count as a lie. */
const ALIASES = new Map<string, string>(
  Object.entries({
    'image/jpg': 'image/jpeg',
    'image/pjpeg': 'image/jpeg',
    'image/x-png': 'image/png',
    'image/heif': 'image/heic',
    'image/apng': 'image/png',
    'image/vnd.microsoft.icon': 'image/x-icon',
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
    // One container for all that Microsoft Office wrote before 2007.
    'application/msword': 'application/x-cfb',
    'application/vnd.ms-excel': 'application/x-cfb',
    'application/vnd.ms-powerpoint': 'application/x-cfb',
  }),
);

/** Documents that are ZIP archives. */
const IN_ZIP =
  /openxmlformats|opendocument|ms-(word|excel|powerpoint)\..*macroenabled|epub\+zip|java-archive|android\.package|google-earth\.kmz/;

const SVG = 'image/svg+xml';

/** What clients say that do not know. */
const UNTOLD = 'application/octet-stream';

/** Whatever is of these types is not text, as a rule; a playlist is an exception. */
const MEDIA = /^(image|audio|video|font)\//;

/** What bytes tell, if they are that. */
const RECOGNISABLE = new Set(
  [...supportedMimeTypes, 'audio/webm', 'audio/matroska', 'application/xml'].map((mime) => canonical(mime)),
);

/**
 * Whether the content is of a type that the file's upload token allows. What bytes cannot tell (which text it is, and formats
 * that are not known here) counts as what it was declared as; so does what they tell only half (a document in a ZIP archive,
 * a vocabulary of XML). Of a type whose bytes would have told, it is no declaration that counts.
 */
export function isAllowed(
  declaredType: string | null,
  allowed: string[],
  detected: Detected | null,
): boolean {
  const declared = bare(declaredType ?? '');
  const isText = detected?.mime === 'text/plain';
  const names = allowed.map(named);
  return countsAs(declared, detected).some((type) => {
    // Of text only what is named itself.
    const taken =
      isText && MEDIA.test(type) && type !== SVG ? names.filter((one) => !one.endsWith('/*')) : names;
    return isAllowedType(named(type), taken);
  });
}

/** Whether a file that is declared so may turn out to be of an allowed type. */
export function mayBeAllowed(declared: string, allowed: string[]): boolean {
  const name = named(declared);
  return name === UNTOLD || isAllowedType(name, allowed.map(named));
}

/** Types that content may pass for. */
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

/** Whether a declared type is another name for what was recognised, or one for what may be in it. */
export function isKindOf(declared: string, mime: string): boolean {
  if (mime === 'application/zip' && IN_ZIP.test(bare(declared))) return true;
  // Names end alike for film and sound, so clients take sound alone for a film.
  return [canonical(declared), canonical(declared).replace(/^video/, 'audio')].includes(canonical(mime));
}

/** By one name for each type; of the formats that are written in XML only that (RFC 6839, 4.1: `+xml`). */
function canonical(mime: string): string {
  const name = named(mime);
  return name.endsWith('+xml') ? 'application/xml' : name;
}

function named(mime: string): string {
  const name = bare(mime);
  return ALIASES.get(name) ?? name;
}

/** In small letters, without parameters. */
function bare(mime: string): string {
  return mime.split(';')[0]?.trim().toLowerCase() ?? '';
}
