import { isAllowedType } from '../media-types.js';
import { OFFICE_TYPES } from '../zip-formats.js';

/** How documents of a kind are read. */
export interface Kind {
  /** In description.ts. */
  reader: 'pdf' | 'text' | 'zip' | 'tar' | 'gzip' | 'office' | 'epub';
  /** Of its facts in the metadata of the file. */
  key: 'pdf' | 'text' | 'archive' | 'office' | 'epub';
  /** Types and ranges of types. */
  types: string[];
  /** It needs only the first and the last bytes of the file. */
  endsOnly?: true;
}

const KINDS: Kind[] = [
  { reader: 'pdf', key: 'pdf', types: ['application/pdf'] },
  { reader: 'text', key: 'text', types: ['text/*', 'application/xml', 'application/x-ms-regedit'] },
  {
    reader: 'zip',
    key: 'archive',
    types: [
      'application/zip',
      'application/java-archive',
      'application/vnd.android.package-archive',
      'application/x-xpinstall',
    ],
    endsOnly: true,
  },
  { reader: 'tar', key: 'archive', types: ['application/x-tar'] },
  { reader: 'gzip', key: 'archive', types: ['application/gzip'] },
  { reader: 'office', key: 'office', types: OFFICE_TYPES },
  { reader: 'epub', key: 'epub', types: ['application/epub+zip'] },
];

/** Types and ranges of types that are read here. */
export const DOCUMENT_TYPES: string[] = KINDS.flatMap(({ types }) => types);

/** Types that may have thumbnails; those of Office and EPUB have them if there is a picture in the document. */
export const DRAWN_TYPES: string[] = KINDS.filter(({ key }) =>
  ['pdf', 'office', 'epub'].includes(key),
).flatMap(({ types }) => types);

/** The kind of a detected type; undefined: nothing is read from files of this type here. */
export function kindOf(type: string): Kind | undefined {
  return KINDS.find(({ types }) => isAllowedType(type, types));
}
