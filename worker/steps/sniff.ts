import { extname } from 'node:path';
import { fileTypeFromBuffer, supportedMimeTypes } from 'file-type';
import type { Problem } from '../../core/database/entities/file.js';
import { isAllowedType, typeNotAllowed } from '../../core/media-types.js';
import type { KnownFile, StreamStep } from './step.js';

/** Bytes of the head that are looked at. Some formats inside a ZIP tell themselves apart only behind that. */
const HEAD = 64 * 1024;

/** Names for the same thing, so that they do not count as a lie. */
const ALIASES: Record<string, string> = {
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
  'video/x-msvideo': 'video/vnd.avi',
  'video/avi': 'video/vnd.avi',
  'text/rtf': 'application/rtf',
  'text/xml': 'application/xml',
  // One container for all that Microsoft Office wrote before 2007.
  'application/msword': 'application/x-cfb',
  'application/vnd.ms-excel': 'application/x-cfb',
  'application/vnd.ms-powerpoint': 'application/x-cfb',
};

/** Extensions that stand for the same format as the one that file-type names. */
const SAME_EXTENSION: Record<string, string> = {
  jpeg: 'jpg',
  jpe: 'jpg',
  jfif: 'jpg',
  tiff: 'tif',
  heif: 'heic',
  htm: 'html',
  mpeg: 'mpg',
  m4v: 'mp4',
  m4a: 'mp4',
  mov: 'mp4',
  apng: 'png',
  aif: 'aiff',
  tgz: 'gz',
  doc: 'cfb',
  xls: 'cfb',
  ppt: 'cfb',
  svg: 'xml',
  xhtml: 'xml',
  rss: 'xml',
  atom: 'xml',
  kml: 'xml',
  gpx: 'xml',
};

/** Formats that are ZIP archives; what is inside may stand behind the head. */
const ZIP_EXTENSION =
  /^(docx|docm|xlsx|xlsm|pptx|odt|ods|odp|odg|epub|jar|apk|xpi|kmz|3mf|cbz|pages|numbers|key)$/;
const ZIP_TYPE =
  /openxmlformats|opendocument|ms-(word|excel|powerpoint)\..*macroenabled|epub\+zip|java-archive|android\.package|google-earth\.kmz/;

/** What bytes tell, if they are that. */
const RECOGNISABLE = new Set([...supportedMimeTypes].map((mime) => canonical(mime.toLowerCase())));

/** Finds out what a file really is from its first bytes, and whether its declared type and its name say so too. */
export const sniff: StreamStep = {
  name: 'sniff',
  begin(file) {
    const parts: Buffer[] = [];
    let size = 0;
    return {
      push(chunk) {
        if (size >= HEAD) return;
        // A copy, because the reader may use the chunk's memory again.
        parts.push(Buffer.from(chunk.subarray(0, HEAD - size)));
        size += chunk.length;
      },
      async end() {
        const head = Buffer.concat(parts);
        const found = await fileTypeFromBuffer(head);
        const detectedType = found?.mime ?? (isText(head) ? 'text/plain' : null);
        const { allowedTypes } = file;
        if (allowedTypes && !isAllowed(file, allowedTypes, found?.mime, detectedType)) {
          throw typeNotAllowed(allowedTypes, detectedType ?? 'of no known type');
        }
        return { detectedType, warnings: found ? compare(file, found.mime, found.ext) : [] };
      },
    };
  },
};

/**
 * Whether the content is of a type that the file's upload token allows. What bytes cannot tell (text, and formats that are
 * not known here) counts as what it was declared as; so does what they tell only half (a document in a ZIP archive, an
 * image in XML). Of a type whose bytes would have told, it is no declaration that counts.
 * @param recognised by its bytes
 * @param detected the same, or text
 */
function isAllowed(
  { declaredType }: KnownFile,
  allowed: string[],
  recognised: string | undefined,
  detected: string | null,
): boolean {
  const declared = declaredType?.toLowerCase() ?? '';
  if (recognised) {
    if (isAllowedType(canonical(recognised), allowed.map(canonical))) return true;
    return isKindOf(declared, recognised) && isAllowedType(declared, allowed);
  }
  const isXmlText = detected === 'text/plain' && canonical(declared) === 'application/xml';
  if (RECOGNISABLE.has(canonical(declared)) && !isXmlText) return false;
  const isTold = declared !== '' && declared !== 'application/octet-stream';
  return isAllowedType(isTold ? declared : (detected ?? 'application/octet-stream'), allowed);
}

/** A mismatch is told, not punished: the detected type is what counts from here on. */
function compare(file: KnownFile, mime: string, extension: string): Problem[] {
  const warnings: Problem[] = [];
  const declared = file.declaredType?.toLowerCase();
  const inZip = mime === 'application/zip';
  if (declared && canonical(declared) !== 'application/octet-stream' && !isKindOf(declared, mime)) {
    const detail = `Declared as ${declared}, but the content is ${mime}`;
    warnings.push({ step: 'sniff', code: 'type_mismatch', detail });
  }
  const named = extname(file.filename).slice(1).toLowerCase();
  if (named && !(inZip && ZIP_EXTENSION.test(named)) && sameExtension(named) !== sameExtension(extension)) {
    const detail = `Named .${named}, but the content is ${mime} (.${extension})`;
    warnings.push({ step: 'sniff', code: 'extension_mismatch', detail });
  }
  return warnings;
}

/** Whether a declared type is another name for what was recognised, or one for what may be in it. */
function isKindOf(declared: string, mime: string): boolean {
  return canonical(declared) === canonical(mime) || (mime === 'application/zip' && ZIP_TYPE.test(declared));
}

/** Without parameters; of the formats that are written in XML only that (RFC 6839, 4.1: `+xml`). */
function canonical(mime: string): string {
  const bare = mime.split(';')[0]?.trim() ?? '';
  return bare.endsWith('+xml') ? 'application/xml' : (ALIASES[bare] ?? bare);
}

function sameExtension(extension: string): string {
  return SAME_EXTENSION[extension] ?? extension;
}

/** Valid UTF-8 without control characters that text does not hold. */
function isText(head: Buffer): boolean {
  if (head.length === 0) return false;
  // The head may end in the middle of a character.
  const text = new TextDecoder().decode(head, { stream: true });
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    const control = code < 0x20 && !(code >= 0x07 && code <= 0x0d) && code !== 0x1b;
    if (control || code === 0xfffd) return false;
  }
  return true;
}
