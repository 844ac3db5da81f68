import { posix } from 'node:path';
import type { TaskInput } from '../task-input.js';
import type { Description } from './description.js';
import { find, openPackage, textAt, toDate } from './package.js';

/* Reads the description of a book in EPUB, and its cover (https://www.w3.org/TR/epub-33/). */

/** @throws {AppError} unreadable, too_much_memory */
export async function describeEpub(input: TaskInput): Promise<Description> {
  const book = openPackage(input);
  const container = book.parse('META-INF/container.xml');
  const path = textAt(container, 'container', 'rootfiles', 'rootfile', '@full-path') ?? '';
  const [packageXml] = find(book.parse(path), 'package');
  const property = (name: string) => textAt(packageXml, 'metadata', name);
  const items = find(packageXml, 'manifest', 'item');
  // Version 3 marks the image itself, version 2 names it in a `meta`.
  const metas = find(packageXml, 'metadata', 'meta');
  const coverId = textAt(
    metas.find((meta) => textAt(meta, '@name') === 'cover'),
    '@content',
  );
  const cover =
    items.find((item) => textAt(item, '@properties')?.split(/\s+/).includes('cover-image')) ??
    items.find((item) => coverId !== undefined && textAt(item, '@id') === coverId);
  const href = textAt(cover, '@href');
  const facts = {
    version: textAt(packageXml, '@version'),
    title: property('title'),
    author: property('creator'),
    publisher: property('publisher'),
    language: property('language'),
    identifier: property('identifier'),
    description: property('description'),
    publishedAt: toDate(property('date')),
  };
  return book.describe(facts, href && posix.join(posix.dirname(path), href));
}
