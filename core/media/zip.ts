import type { Bytes, Format } from './format.js';
import { readDirectory, readEntry } from './zip-directory.js';
import { formatOf, OPEN_XML } from './zip-formats.js';

/*
 * Detects the format of a ZIP archive by the names of its entries. If its directory is longer than the sample, the names
 * within the sample count.
 */

/** Entries that reveal the type are smaller than this, in bytes. */
const MAX_TELLING = 1024 ** 2;

/** Media types of Office Open XML, by the folder of the parts: without macros, and with macros. */
const OFFICE: Record<string, [plain: string, macros: string]> = {
  'word/': [`${OPEN_XML}wordprocessingml.document`, 'application/vnd.ms-word.document.macroenabled'],
  'xl/': [`${OPEN_XML}spreadsheetml.sheet`, 'application/vnd.ms-excel.sheet.macroenabled'],
  'ppt/': [
    `${OPEN_XML}presentationml.presentation`,
    'application/vnd.ms-powerpoint.presentation.macroenabled',
  ],
};

/** The format that the entries reveal; undefined: the directory was not found, or reveals no format. */
export function readZip(bytes: Bytes): Format | undefined {
  const entries = readDirectory(bytes)?.entries ?? [];
  const names = new Set(entries.map(({ name }) => name));
  const has = (pattern: RegExp) => entries.some(({ name }) => pattern.test(name));
  const contentOf = (name: string) => {
    const entry = entries.find((one) => one.name === name);
    const content = entry && readEntry(bytes, entry, MAX_TELLING);
    return content && new TextDecoder().decode(content);
  };

  const declared = formatOf(contentOf('mimetype')?.trim());
  if (declared) return declared;
  if (names.has('[Content_Types].xml')) {
    const [, main] =
      /ContentType\s*=\s*["']([^"']+)\.main\+xml["']/.exec(contentOf('[Content_Types].xml') ?? '') ?? [];
    const named = formatOf(main);
    if (named) return named;
    if (has(/^3D\/.*\.model$/i)) return { mime: 'model/3mf', ext: '3mf' };
    const folder = Object.keys(OFFICE).find((one) => entries.some(({ name }) => name.startsWith(one)));
    return formatOf(OFFICE[folder ?? '']?.[names.has(`${folder}vbaProject.bin`) ? 1 : 0]);
  }
  if (names.has('META-INF/mozilla.rsa')) return { mime: 'application/x-xpinstall', ext: 'xpi' };
  if (has(/^classes\d*\.dex$/)) return { mime: 'application/vnd.android.package-archive', ext: 'apk' };
  if (names.has('META-INF/MANIFEST.MF')) return { mime: 'application/java-archive', ext: 'jar' };
  return undefined;
}
