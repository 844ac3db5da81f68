import type { Format } from './format.js';

/* Formats that are ZIP archives and contain their media type. */

export const OPEN_XML = 'application/vnd.openxmlformats-officedocument.';

/** Extensions of formats whose archives contain their media type, by that type without `.12`. */
const EXTENSIONS = new Map<string, string>(
  Object.entries({
    'application/epub+zip': 'epub',
    'application/vnd.oasis.opendocument.text': 'odt',
    'application/vnd.oasis.opendocument.text-template': 'ott',
    'application/vnd.oasis.opendocument.spreadsheet': 'ods',
    'application/vnd.oasis.opendocument.spreadsheet-template': 'ots',
    'application/vnd.oasis.opendocument.presentation': 'odp',
    'application/vnd.oasis.opendocument.presentation-template': 'otp',
    'application/vnd.oasis.opendocument.graphics': 'odg',
    'application/vnd.oasis.opendocument.graphics-template': 'otg',
    'application/vnd.oasis.opendocument.chart': 'odc',
    'application/vnd.oasis.opendocument.formula': 'odf',
    'application/vnd.oasis.opendocument.text-master': 'odm',
    'application/vnd.oasis.opendocument.text-web': 'oth',
    [`${OPEN_XML}wordprocessingml.document`]: 'docx',
    [`${OPEN_XML}wordprocessingml.template`]: 'dotx',
    [`${OPEN_XML}spreadsheetml.sheet`]: 'xlsx',
    [`${OPEN_XML}spreadsheetml.template`]: 'xltx',
    [`${OPEN_XML}presentationml.presentation`]: 'pptx',
    [`${OPEN_XML}presentationml.template`]: 'potx',
    [`${OPEN_XML}presentationml.slideshow`]: 'ppsx',
    'application/vnd.ms-word.document.macroenabled': 'docm',
    'application/vnd.ms-word.template.macroenabledtemplate': 'dotm',
    'application/vnd.ms-excel.sheet.macroenabled': 'xlsm',
    'application/vnd.ms-excel.template.macroenabled': 'xltm',
    'application/vnd.ms-excel.sheet.binary.macroenabled': 'xlsb',
    'application/vnd.ms-powerpoint.presentation.macroenabled': 'pptm',
    'application/vnd.ms-powerpoint.template.macroenabled': 'potm',
    'application/vnd.ms-powerpoint.slideshow.macroenabled': 'ppsm',
    'application/vnd.ms-visio.drawing': 'vsdx',
  }),
);

const VISIO = 'application/vnd.visio';

const EPUB = 'application/epub+zip';

const MACRO: Record<string, string> = { dotm: 'application/vnd.ms-word.template.macroenabled' };

/** Turns the media type within an archive into IANA's: macro-enabled types end in `.12`. */
export function formatOf(type: string | undefined): Format | undefined {
  const name = type?.toLowerCase() ?? '';
  const ext = EXTENSIONS.get(name);
  if (!ext) return undefined;
  if (ext === 'vsdx') return { mime: VISIO, ext };
  return { mime: name.includes('macroenabled') ? `${MACRO[ext] ?? name}.12` : name, ext };
}

/** Media types of Office Open XML and OpenDocument. */
export const OFFICE_TYPES: string[] = [...EXTENSIONS.keys()]
  .filter((type) => type !== EPUB)
  .flatMap((type) => formatOf(type)?.mime ?? []);
