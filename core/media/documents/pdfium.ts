import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { init, type PdfiumRuntimeMethods, type WrappedPdfiumModule } from '@embedpdf/pdfium';
import { AppError } from '../../errors.js';

/*
 * PDFium (https://pdfium.googlesource.com) as WebAssembly: a parser of PDF that can reach nothing but its own memory. Each
 * PDF gets an instance of its own, because the memory of an instance never shrinks, and because an instance that failed
 * is unusable.
 *
 * WebAssembly runs in the thread of JavaScript, so the check of ../parser-process.ts for memory cannot run meanwhile. For
 * this reason the memory of an instance is limited here.
 */

/** Memory that the JavaScript around an instance takes, and the pictures that are made of its output. */
const RESERVE = 64 * 1024 ** 2;

/** The least memory in which an instance can start. */
const LEAST = 32 * 1024 ** 2;

export type Pdfium = Omit<WrappedPdfiumModule, 'pdfium'> & {
  pdfium: Heap & PdfiumRuntimeMethods;
  /** Puts a text, in UTF-16 and ended by NUL, into memory that PDFium fills. @param call returns the bytes written */
  readText(maxBytes: number, call: (buffer: number, bytes: number) => number): string;
  /** Whether PDFium asked for more memory than it may have. */
  wasRefused(): boolean;
};

/** The part of the WebAssembly JavaScript interface that is used here; TypeScript has its types among those of browsers. */
declare const WebAssembly: {
  compile(bytes: Uint8Array): Promise<object>;
  Instance: new (code: object, imports: object) => { exports: object };
};

interface Imports {
  env: { emscripten_resize_heap: (bytes: number) => number | boolean };
}

/** Memory of an instance. */
interface Heap {
  HEAPU8: Uint8Array;
}

/** Compiled once a process, when the first PDF comes. */
let compiled: Promise<object> | undefined;

/** @param memory how many bytes of resident memory this process may take in all @throws {AppError} too_much_memory */
export async function startPdfium(memory: number): Promise<Pdfium> {
  compiled ??= readFile(fileURLToPath(import.meta.resolve('@embedpdf/pdfium/pdfium.wasm'))).then((bytes) =>
    WebAssembly.compile(bytes),
  );
  const code = await compiled;
  // Frees the memory of the instance before: one collection finds that it is unused, the next one gives it back.
  for (let i = 0; i < 2; i++) globalThis.gc?.();
  const limit = memory - process.memoryUsage.rss() - RESERVE;
  if (limit < LEAST) throw tooHungry();
  let refused = false;
  const overrides = {
    print() {},
    printErr() {},
    instantiateWasm(imports: Imports, done: (instance: object) => void) {
      const { env } = imports;
      const resize = env.emscripten_resize_heap;
      env.emscripten_resize_heap = (bytes) => {
        // As a number of WebAssembly, it is signed.
        if (bytes >>> 0 <= limit) return resize(bytes);
        refused = true;
        return 0;
      };
      const instance = new WebAssembly.Instance(code, imports);
      done(instance);
      return instance.exports;
    },
  };
  const library = await init(overrides);
  const pdfium = library.pdfium as PdfiumRuntimeMethods & object as Heap & PdfiumRuntimeMethods;
  library.PDFiumExt_Init();
  return { ...library, pdfium, readText: createTextReader(pdfium), wasRefused: () => refused };
}

/** The error of a PDF that needs more memory than there is. */
export function tooHungry(): AppError {
  return new AppError('too_much_memory', { detail: 'Decoding the PDF takes more memory than is allowed' });
}

/** Lets PDFium read bytes a block at a time, so that they are not held twice. @returns its FPDF_FILEACCESS */
export function giveBytes({ pdfium }: Pdfium, bytes: Buffer): number {
  const readBlock = (_: number, position: number, target: number, length: number) => {
    const start = position >>> 0;
    const end = start + (length >>> 0);
    if (end > bytes.length) return 0;
    pdfium.HEAPU8.set(bytes.subarray(start, end), target >>> 0);
    return 1;
  };
  const access = pdfium.wasmExports.malloc(12);
  pdfium.setValue(access, bytes.length, 'i32');
  pdfium.setValue(access + 4, pdfium.addFunction(readBlock, 'iiiii'), 'i32');
  pdfium.setValue(access + 8, 0, 'i32');
  return access;
}

function createTextReader(pdfium: Pdfium['pdfium']): Pdfium['readText'] {
  return (maxBytes, call) => {
    const buffer = pdfium.wasmExports.malloc(maxBytes);
    if (buffer === 0) return '';
    const written = Math.min(call(buffer, maxBytes), maxBytes);
    const text = Buffer.from(pdfium.HEAPU8.buffer, buffer, Math.max(0, written)).toString('utf16le');
    pdfium.wasmExports.free(buffer);
    return text.split('\0', 1)[0] ?? '';
  };
}
