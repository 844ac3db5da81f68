import { posix } from 'node:path';
import type { TaskInput } from '../task-input.js';
import type { Description } from './description.js';
import { find, openPackage, type Package, textAt, toCount, toDate, type Xml } from './package.js';

/*
 * Reads the properties of Office Open XML (ECMA-376, part 2, clause 8; part 1, 22.2) and of OpenDocument (OASIS OpenDocument
 * 1.3, part 3, chapter 4), and the picture of the first page that the program has put into the document.
 */

/** The ends of the types of relationships. */
const CORE = '/metadata/core-properties';
const EXTENDED = '/extended-properties';
const THUMBNAIL = '/metadata/thumbnail';

const ODF_META = 'meta.xml';
const ODF_THUMBNAIL = 'Thumbnails/thumbnail.png';

/** Windows metafiles, which older programs of Office wrote, cannot be drawn here. */
const METAFILE = /\.(emf|wmf)$/i;

/** @throws {AppError} unreadable, too_much_memory */
export async function describeOffice(input: TaskInput): Promise<Description> {
  const document = openPackage(input);
  const isOpenXml = document.has('[Content_Types].xml');
  const { facts, image } = isOpenXml ? readOpenXml(document) : readOpenDocument(document);
  return document.describe(facts, image);
}

interface Found {
  facts: Record<string, unknown>;
  /** The entry of the picture. */
  image: string | undefined;
}

function readOpenXml(document: Package): Found {
  const relationships = find(document.parse('_rels/.rels'), 'Relationships', 'Relationship');
  const targetOf = (type: string) => {
    const found = relationships.find((one) => textAt(one, '@Type')?.endsWith(type));
    const target = textAt(found, '@Target');
    return target && posix.join('/', target).slice(1);
  };
  const core = document.parse(targetOf(CORE) ?? 'docProps/core.xml');
  const extended = document.parse(targetOf(EXTENDED) ?? 'docProps/app.xml');
  const property = (name: string) => textAt(core, 'coreProperties', name);
  const countOf = (name: string) => toCount(textAt(extended, 'Properties', name));
  const image = targetOf(THUMBNAIL);
  return {
    facts: {
      title: property('title'),
      author: property('creator'),
      lastAuthor: property('lastModifiedBy'),
      subject: property('subject'),
      description: property('description'),
      keywords: property('keywords'),
      language: property('language'),
      createdAt: toDate(property('created')),
      modifiedAt: toDate(property('modified')),
      application: textAt(extended, 'Properties', 'Application'),
      pages: countOf('Pages'),
      words: countOf('Words'),
      characters: countOf('CharactersWithSpaces') ?? countOf('Characters'),
      slides: countOf('Slides'),
    },
    image: image && METAFILE.test(image) ? undefined : image,
  };
}

function readOpenDocument(document: Package): Found {
  const [meta] = find(document.parse(ODF_META), 'document-meta', 'meta');
  const property = (name: string) => textAt(meta, name);
  const countOf = (name: string) => toCount(textAt(meta, 'document-statistic', `@${name}`));
  return {
    facts: {
      title: property('title'),
      author: property('initial-creator') ?? property('creator'),
      lastAuthor: property('creator'),
      subject: property('subject'),
      description: property('description'),
      keywords: find(meta, 'keyword').map(textOf).join(', ') || undefined,
      language: property('language'),
      createdAt: toDate(property('creation-date')),
      modifiedAt: toDate(property('date')),
      application: property('generator'),
      pages: countOf('page-count'),
      words: countOf('word-count'),
      characters: countOf('character-count'),
      tables: countOf('table-count'),
    },
    image: ODF_THUMBNAIL,
  };
}

const textOf = (xml: Xml) => textAt(xml) ?? '';
