import { AppError } from '../../errors.js';
import type { Pixels } from '../placeholder.js';
import { toPlainJson } from '../plain-json.js';
import { type TaskInput, tooLarge } from '../task-input.js';
import { LARGEST, scaleDown } from '../thumbnails.js';
import type { Description } from './description.js';
import { excerptOf } from './excerpt.js';
import { readPdfDate } from './pdf-date.js';
import { giveBytes, type Pdfium, startPdfium, tooHungry } from './pdfium.js';

/* Reads a PDF (ISO 32000-2): its facts, the beginning of its text, and a picture of its first page. */

/** Pages whose text is read. */
const TEXT_PAGES = 10;

/** Characters of a page that are read. */
const PAGE_CHARACTERS = 10_000;

/** Bytes of one entry of the document information dictionary that are read. */
const INFO_BYTES = 4096;

/** https://pdfium.googlesource.com/pdfium/+/main/public/fpdfview.h: FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY */
const ERR_PASSWORD = 4;
const ERR_SECURITY = 5;

/** Format of a bitmap: four bytes a pixel. */
const BGRA = 4;

const WHITE = 0xffffffff;

/** Flags of rendering: annotations are shown, too; the bytes of a pixel in the order red, green, blue. */
const FPDF_ANNOT = 0x01;
const FPDF_REVERSE_BYTE_ORDER = 0x10;

/** @throws {AppError} unreadable, too_much_memory */
export async function describePdf({ bytes, size, limits }: TaskInput): Promise<Description> {
  if (bytes.length < size) throw tooLarge(size, bytes.length);
  const library = await startPdfium(limits.memory);
  try {
    return await describe(library, bytes);
  } catch (error) {
    throw toAppError(library, error);
  }
}

async function describe(library: Pdfium, bytes: Buffer): Promise<Description> {
  const file = library.FPDF_LoadCustomDocument(giveBytes(library, bytes), '');
  if (file === 0) return describeUnopened(library);
  const pages = library.FPDF_GetPageCount(file);
  if (pages === 0) throw new AppError('unreadable', { detail: 'The PDF has no page that can be read' });
  const facts: Record<string, unknown> = {
    pages,
    encrypted: library.EPDF_IsEncrypted(file),
    version: readVersion(library, file),
    ...readInfo(library, file),
  };
  const warnings: Description['warnings'] = [];
  if (!library.FPDF_DocumentHasValidCrossReferenceTable(file)) {
    warnings.push({
      code: 'damaged',
      detail: 'The PDF is damaged or cut off; it was read as far as possible',
    });
  }
  let thumbnails: Description['thumbnails'] = [];
  try {
    const { pixels, ...size } = renderFirst(library, file);
    Object.assign(facts, size);
    thumbnails = await scaleDown(pixels);
    facts.excerpt = readExcerpt(library, file, pages);
  } catch (error) {
    // The facts so far stay. PDFium cannot go on after such an error.
    const { code, message } = toAppError(library, error);
    warnings.push({ code, detail: message });
  }
  return { facts: toPlainJson(facts), thumbnails, warnings };
}

/** PDFium ends itself when it gets no memory, or may take a lack of memory for a broken file. */
function toAppError(library: Pdfium, error: unknown): AppError {
  if (library.wasRefused()) return tooHungry();
  return error instanceof AppError ? error : broken(error);
}

/** A PDF that needs a password is in order, but only that much is known of it. */
function describeUnopened(library: Pdfium): Description {
  const reason = library.FPDF_GetLastError();
  if (reason !== ERR_PASSWORD && reason !== ERR_SECURITY) throw broken();
  const detail =
    reason === ERR_PASSWORD
      ? 'The PDF is encrypted: without its password nothing of it can be read'
      : 'The PDF is encrypted in a way that is not supported here';
  return {
    facts: { encrypted: true },
    thumbnails: [],
    warnings: [{ code: 'encrypted', detail }],
  };
}

function broken(cause?: unknown): AppError {
  return new AppError('unreadable', { detail: 'The PDF is broken and cannot be read', cause });
}

/** The document information dictionary (ISO 32000-2, 14.3.3). */
function readInfo(library: Pdfium, file: number): Record<string, string | undefined> {
  const read = (key: string) =>
    library
      .readText(INFO_BYTES, (buffer, length) => library.FPDF_GetMetaText(file, key, buffer, length))
      .trim() || undefined;
  return {
    title: read('Title'),
    author: read('Author'),
    subject: read('Subject'),
    keywords: read('Keywords'),
    creator: read('Creator'),
    producer: read('Producer'),
    createdAt: readPdfDate(read('CreationDate')),
    modifiedAt: readPdfDate(read('ModDate')),
  };
}

/** Such as 1.7, which PDFium gives as 17. */
function readVersion({ pdfium, FPDF_GetFileVersion }: Pdfium, file: number): string | undefined {
  const target = pdfium.wasmExports.malloc(4);
  const version = FPDF_GetFileVersion(file, target) ? pdfium.getValue(target, 'i32') : 0;
  pdfium.wasmExports.free(target);
  return version > 0 ? `${Math.floor(version / 10)}.${version % 10}` : undefined;
}

/** Draws the first page as large as the largest thumbnail. @returns also its size in points, 1/72 of an inch */
function renderFirst(
  library: Pdfium,
  file: number,
): { pixels: Pixels; pageWidth: number; pageHeight: number } {
  const page = library.FPDF_LoadPage(file, 0);
  if (page === 0) throw new AppError('damaged', { detail: 'The first page of the PDF cannot be read' });
  const pageWidth = library.FPDF_GetPageWidthF(page);
  const pageHeight = library.FPDF_GetPageHeightF(page);
  const scale = LARGEST / Math.max(pageWidth, pageHeight, 1);
  const width = Math.max(1, Math.round(pageWidth * scale));
  const height = Math.max(1, Math.round(pageHeight * scale));
  const bitmap = library.FPDFBitmap_CreateEx(width, height, BGRA, 0, 0);
  if (bitmap === 0) throw tooHungry();
  library.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, WHITE);
  library.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width, height, 0, FPDF_ANNOT | FPDF_REVERSE_BYTE_ORDER);
  const start = library.FPDFBitmap_GetBuffer(bitmap);
  // The view of the memory is a new one whenever the memory has grown.
  const data = library.pdfium.HEAPU8.slice(start, start + width * height * 4);
  library.FPDFBitmap_Destroy(bitmap);
  library.FPDF_ClosePage(page);
  const pixels: Pixels = { data, info: { width, height, channels: 4 } };
  return { pixels, pageWidth: Math.round(pageWidth), pageHeight: Math.round(pageHeight) };
}

/** The beginning of the text, page after page. */
function readExcerpt(library: Pdfium, file: number, pages: number): string | undefined {
  return excerptOf(
    (function* () {
      for (let index = 0; index < Math.min(pages, TEXT_PAGES); index++) {
        const page = library.FPDF_LoadPage(file, index);
        if (page === 0) continue;
        const text = library.FPDFText_LoadPage(page);
        const count = text && Math.min(library.FPDFText_CountChars(text), PAGE_CHARACTERS);
        // FPDFText_GetText() counts characters, and ends them with NUL.
        if (count > 0) {
          yield library.readText(
            (count + 1) * 2,
            (buffer) => 2 * library.FPDFText_GetText(text, 0, count, buffer),
          );
        }
        if (text) library.FPDFText_ClosePage(text);
        library.FPDF_ClosePage(page);
      }
    })(),
  );
}
