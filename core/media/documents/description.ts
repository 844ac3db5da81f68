import type { TaskInput } from '../task-input.js';
import type { Thumbnail } from '../thumbnails.js';
import type { Kind } from './kinds.js';

/** What is known of a document. */
export interface Description {
  /** Fit for a jsonb column. */
  facts: Record<string, unknown>;
  thumbnails: Thumbnail[];
  /** Why something is missing. */
  warnings: { code: string; detail: string }[];
}

type Reader = (input: TaskInput) => Description | Promise<Description>;

/** Each is loaded when the first document for it comes. */
const READERS: Record<Kind['reader'], () => Promise<Reader>> = {
  epub: async () => (await import('./epub.js')).describeEpub,
  gzip: async () => (await import('./gzip.js')).describeGzip,
  office: async () => (await import('./office.js')).describeOffice,
  pdf: async () => (await import('./pdf.js')).describePdf,
  tar: async () => (await import('./tar.js')).describeTar,
  text: async () => (await import('./text.js')).describeText,
  zip: async () => (await import('./zip.js')).describeZip,
};

/** Reads the facts of a document, and makes its thumbnails. @throws {AppError} unreadable, too_much_memory */
export async function describeDocument(
  input: TaskInput,
  { reader }: Pick<Kind, 'reader'>,
): Promise<Description> {
  const read = await READERS[reader]();
  return read(input);
}
