import { extname } from 'node:path';
import type { Problem } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import { isAllowed, isKindOf } from '../../core/media/allowed.js';
import { typeNotAllowed } from '../../core/media/media-types.js';
import type { Parsers } from '../../core/media/parsers.js';
import { createSample, type Sample } from '../../core/media/sample.js';
import type { Detected } from '../../core/media/types.js';
import { type SizeLimits, sizeError } from '../../core/uploads/size-limits.js';
import type { KnownFile, Outcome, StreamStep } from './step.js';

/** Extensions that mean the same format as the extension that file-type reports. */
const SAME_EXTENSION = new Map<string, string>(
  Object.entries({
    jpeg: 'jpg',
    jpe: 'jpg',
    jfif: 'jpg',
    tiff: 'tif',
    heif: 'heic',
    hif: 'heic',
    j2k: 'j2c',
    jpc: 'j2c',
    psb: 'psd',
    dib: 'bmp',
    nrw: 'nef',
    sr2: 'arw',
    rwl: 'rw2',
    htm: 'html',
    mpeg: 'mpg',
    m4v: 'mp4',
    m4a: 'mp4',
    weba: 'webm',
    mov: 'mp4',
    apng: 'png',
    aif: 'aiff',
    tgz: 'gz',
    'tar.gz': 'gz',
    doc: 'cfb',
    xls: 'cfb',
    ppt: 'cfb',
    svg: 'xml',
    xhtml: 'xml',
    rss: 'xml',
    atom: 'xml',
    kml: 'xml',
    gpx: 'xml',
  }),
);

/** Formats that are ZIP archives; the entries that identify them may lie outside the sample. */
const ZIP_EXTENSION =
  /^(docx|docm|xlsx|xlsm|pptx|odt|ods|odp|odg|epub|jar|apk|xpi|kmz|3mf|cbz|pages|numbers|key)$/;

/** Detects the type of a file from its bytes, and compares it with the declared type and the name. */
export function createSniffStep({
  parsers,
  maxSizeByType,
}: { parsers: Pick<Parsers, 'run'> } & Pick<SizeLimits, 'maxSizeByType'>): StreamStep {
  /** A file that cannot be parsed in time or within the memory limit has no known type. */
  async function detect(sample: Sample, signal: AbortSignal): Promise<Detection> {
    if (sample.size() === 0) return { detected: null, warnings: [] };
    try {
      return { detected: await parsers.run('type', sample.source(true), signal), warnings: [] };
    } catch (error) {
      if (!(error instanceof AppError) || error.retryable) throw error;
      const { code, detail, title } = error;
      return { detected: null, warnings: [{ step: 'sniff', code, detail: detail ?? title }] };
    }
  }

  return {
    name: 'sniff',
    begin(file, signal) {
      const sample = createSample();
      return {
        push: sample.push,
        end: async () => judge(file, await detect(sample, signal), maxSizeByType),
      };
    },
  };
}

interface Detection {
  detected: Detected | null;
  warnings: Problem[];
}

function judge(
  file: KnownFile,
  { detected, warnings }: Detection,
  maxSizeByType: SizeLimits['maxSizeByType'],
): Outcome {
  const { declaredType, allowedTypes } = file;
  if (allowedTypes && !isAllowed(declaredType, allowedTypes, detected)) {
    return { outcome: 'failed', error: typeNotAllowed(allowedTypes, detected?.mime ?? 'of no known type') };
  }
  const tooLarge = sizeError({ maxSizeByType }, file, detected);
  if (tooLarge) return { outcome: 'failed', error: tooLarge };
  return {
    outcome: 'done',
    facts: {
      detectedType: detected?.mime ?? null,
      // A browser that shows the text must be told this charset, or none.
      ...(detected?.charset && detected.charset !== 'utf-8'
        ? { metadata: { text: { charset: detected.charset } } }
        : {}),
      warnings: [...warnings, ...compare(file, detected)],
    },
  };
}

/** A mismatch gives a warning only: from here on the detected type counts. Text may have many types. */
function compare(file: KnownFile, detected: Detected | null): Problem[] {
  if (!detected || detected.mime === 'text/plain') return [];
  const { mime, ext } = detected;
  const warnings: Problem[] = [];
  const declared = file.declaredType?.toLowerCase();
  const inZip = mime === 'application/zip';
  if (declared && !/^application\/octet-stream\b/.test(declared) && !isKindOf(declared, mime)) {
    const detail = `Declared as ${declared}, but the content is ${mime}`;
    warnings.push({ step: 'sniff', code: 'type_mismatch', detail });
  }
  const named = extname(file.filename).slice(1).toLowerCase();
  if (named && !(inZip && ZIP_EXTENSION.test(named)) && sameExtension(named) !== sameExtension(ext)) {
    const detail = `Named .${named}, but the content is ${mime} (.${ext})`;
    warnings.push({ step: 'sniff', code: 'extension_mismatch', detail });
  }
  return warnings;
}

function sameExtension(extension: string): string {
  return SAME_EXTENSION.get(extension) ?? extension;
}
