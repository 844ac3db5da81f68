import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import type { IConfigurationFile, IMagickImage, MagickFormat } from '@imagemagick/magick-wasm';
import { AppError } from '../errors.js';
import { type ParserLimits, wasmBytes } from './task-input.js';

/*
 * ImageMagick in WebAssembly: it decodes formats that libvips cannot decode here. The module sees neither files nor the
 * network of the machine. It is loaded when the first such picture comes. Its policy allows only the decoders in CODERS.
 */

type Library = typeof import('@imagemagick/magick-wasm');

const CODERS = ['BMP', 'HEIC', 'ICO', 'J2K', 'JP2', 'JXL', 'PSD'] as const;

/** A decoder of ImageMagick. */
export type Coder = (typeof CODERS)[number];

/** Facts in the header of a picture. */
export interface MagickHeader {
  /** Pixels, before `orientation` is applied. */
  width: number;
  height: number;
  /** As in EXIF: 1 to 8. */
  orientation: number;
  /** In the words of libvips. */
  space?: string;
  hasAlpha: boolean;
  hasProfile: boolean;
  exif?: Buffer;
  xmp?: Buffer;
}

/** The types of Node 20 do not have it. */
declare const WebAssembly: { compile(bytes: Uint8Array): Promise<Module> };

type Module = Parameters<Library['initializeImageMagick']>[0];

let loading: Promise<{ library: Library; module: Module }> | undefined;

/**
 * Reads the header of a picture without decoding its pixels.
 * @throws {Error} with the decoder's message
 */
export function readMagickHeader(
  bytes: Uint8Array,
  coder: Coder,
  limits: ParserLimits,
): Promise<MagickHeader> {
  return withLibrary(limits, (library) => {
    const image = library.MagickImage.create();
    try {
      image.ping(bytes, settingsOf(library, coder));
      return headerOf(library, image);
    } finally {
      image.dispose();
    }
  });
}

/**
 * Decodes a picture and writes it as an uncompressed TIFF, which libvips reads.
 * @throws {AppError} too_many_pixels, too_much_memory; an Error with the decoder's message
 */
export function convertToTiff(bytes: Uint8Array, coder: Coder, limits: ParserLimits): Promise<Buffer> {
  return withLibrary(limits, (library) => {
    const image = library.MagickImage.create();
    try {
      image.ping(bytes, settingsOf(library, coder));
      checkPixels(image, limits);
      image.read(bytes, settingsOf(library, coder));
      checkPixels(image, limits);
      return writeTiff(library, image);
    } catch (error) {
      throw isOutOfMemory(error) ? outOfMemory(limits) : error;
    } finally {
      image.dispose();
    }
  });
}

/**
 * Calls the library in an instance of its own. The memory of WebAssembly only grows, and a later task would pay for this
 * one, so the instance is dropped. The library has no public function for that.
 */
async function withLibrary<T>({ maxImagePixels }: ParserLimits, use: (library: Library) => T): Promise<T> {
  loading ??= load();
  const { library, module } = await loading;
  const files = [library.ConfigurationFiles.default.log, policyOf(maxImagePixels)];
  await library.initializeImageMagick(module, {
    ...library.ConfigurationFiles.default,
    all: () => each(files),
  });
  try {
    return use(library);
  } finally {
    (library.ImageMagick as unknown as { _api: undefined })._api = undefined;
    globalThis.gc?.();
  }
}

function* each<T>(items: T[]): Generator<T> {
  yield* items;
}

async function load() {
  const library = await import('@imagemagick/magick-wasm');
  const path = createRequire(import.meta.url).resolve('@imagemagick/magick-wasm/magick.wasm');
  return { library, module: await WebAssembly.compile(await readFile(path)) };
}

/** https://imagemagick.org/script/security-policy.php */
function policyOf(maxImagePixels: number): IConfigurationFile {
  const deny = ['delegate', 'filter', 'coder'].map(
    (domain) => `<policy domain="${domain}" rights="none" pattern="*"/>`,
  );
  const data = `<policymap>
    ${deny.join('')}
    <policy domain="path" rights="none" pattern="@*"/>
    <policy domain="coder" rights="read" pattern="{${CODERS.join(',')}}"/>
    <policy domain="coder" rights="write" pattern="TIFF"/>
    <policy domain="resource" name="area" value="${maxImagePixels}"/>
    <policy domain="resource" name="disk" value="0"/>
  </policymap>`;
  return { fileName: 'policy.xml', data };
}

/** Only the first picture of a file: the composite of a PSD, the main picture of a HEIC. */
function settingsOf({ MagickReadSettings }: Library, coder: Coder) {
  return new MagickReadSettings({ format: coder as MagickFormat, frameIndex: 0, frameCount: 1 });
}

function headerOf({ ColorSpace }: Library, image: IMagickImage): MagickHeader {
  const spaces: Partial<Record<number, string>> = {
    [ColorSpace.CMYK]: 'cmyk',
    [ColorSpace.Gray]: 'b-w',
    [ColorSpace.Lab]: 'lab',
    [ColorSpace.sRGB]: 'srgb',
  };
  const space = spaces[image.colorSpace];
  const block = (name: string) => {
    const profile = image.getProfile(name);
    return profile ? Buffer.from(profile.data) : undefined;
  };
  const exif = block('exif');
  const xmp = block('xmp');
  return {
    width: image.width,
    height: image.height,
    orientation: image.orientation || 1,
    ...(space ? { space } : {}),
    hasAlpha: image.hasAlpha,
    hasProfile: image.hasProfile('icc'),
    ...(exif ? { exif } : {}),
    ...(xmp ? { xmp } : {}),
  };
}

function checkPixels({ width, height }: IMagickImage, { maxImagePixels }: ParserLimits): void {
  if (width * height <= maxImagePixels) return;
  throw new AppError('too_many_pixels', {
    detail: `${width} × ${height} pixels; at most ${maxImagePixels} in all are decoded`,
  });
}

/** The colour profile and the orientation go with the pixels: libvips applies both. */
function writeTiff(library: Library, image: IMagickImage): Buffer {
  const { ColorSpace, ColorType, CompressionMethod, MagickFormat } = library;
  const isGray = [ColorSpace.Gray, ColorSpace.LinearGray].some((space) => space === image.colorSpace);
  for (const name of image.profileNames) if (name !== 'icc' || isGray) image.removeProfile(name);
  if (isGray) image.colorSpace = ColorSpace.sRGB;
  image.depth = 8;
  if (image.colorSpace !== ColorSpace.CMYK) {
    image.settings.colorType = image.hasAlpha ? ColorType.TrueColorAlpha : ColorType.TrueColor;
  }
  image.settings.compression = CompressionMethod.NoCompression;
  return image.write(MagickFormat.Tiff, (data) => Buffer.from(data));
}

function isOutOfMemory(error: unknown): boolean {
  return (
    error instanceof Error &&
    /memory ?allocation|out of memory|enlarge memory|bad_alloc|cache ?resources ?exhausted/i.test(
      error.message,
    )
  );
}

function outOfMemory(limits: ParserLimits): AppError {
  return new AppError('too_much_memory', {
    detail: `More than ${Math.round(wasmBytes(limits) / 1024 ** 2)} MiB`,
  });
}
