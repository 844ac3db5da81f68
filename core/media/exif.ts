import exifr from 'exifr';
import { readClock, readDate, readOffset } from './exif-date.js';
import { decodeText, decodeWide } from './text.js';
import { type Directory, type Entry, openTiff } from './tiff.js';

/*
 * EXIF according to its standard (EXIF 2.31), read from the raw values. exifr would make dates of blanks, ignore offsets,
 * and lose a whole directory when one of its entries is broken. Only its dictionaries of names and meanings are used.
 */

type Tags = Record<string, unknown>;

/** Tags of the three directories that describe the photograph, by their names in the answer. */
export interface Exif {
  ifd0?: Tags;
  exif?: Tags;
  gps?: Tags;
}

const EXIF_IFD = 0x8769;
const GPS_IFD = 0x8825;

/** The tags of each date's offset and fraction of a second. All dates but ModifyDate are in the EXIF directory. */
const DATES: Record<string, [offset: string, fraction: string]> = {
  ModifyDate: ['OffsetTime', 'SubSecTime'],
  DateTimeOriginal: ['OffsetTimeOriginal', 'SubSecTimeOriginal'],
  CreateDate: ['OffsetTimeDigitized', 'SubSecTimeDigitized'],
};

const OFFSETS = ['OffsetTime', 'OffsetTimeOriginal', 'OffsetTimeDigitized'];

/** Tags that hold one number by definition. Some cameras write two numbers, or 0 if the value is unknown. */
const SINGLE = ['ISO', 'ExifImageWidth', 'ExifImageHeight'];

/** Tags of Windows that hold text as bytes of UTF-16 LE. */
const WINDOWS_TEXT = /^XP/;

/** Four digits: "0231" is 2.31, "0300" is 3.0. */
const VERSIONS = ['ExifVersion', 'FlashpixVersion'];

/** Tags that are left out together when there is no valid position. */
const POSITION = [
  'GPSLatitudeRef',
  'GPSLatitude',
  'GPSLongitudeRef',
  'GPSLongitude',
  'GPSAltitudeRef',
  'GPSAltitude',
  'altitude',
];

/** Tags that hold positions in the file or padding: they are no facts about the photograph. */
const POINTERS =
  /^(ExifIFD|GpsIFD|InteropIFD|SubIFD|IPTC|ICC|ApplicationNotes|MakerNote|UserComment|Strip.*|Thumbnail.*|Padding)$/;

/**
 * @param bytes an EXIF block, with or without "Exif\0\0" before it, or a whole TIFF file
 * @param apart blocks whose first directory takes the place of that to which the first block would point
 */
export function readExif(bytes: Buffer, apart: { exif?: Buffer; gps?: Buffer } = {}): Exif {
  const tiff = openTiff(bytes.subarray(bytes.toString('latin1', 0, 4) === 'Exif' ? 6 : 0));
  if (!tiff) return {};
  const main = tiff.readDirectory(tiff.first);
  const follow = (tag: number, block: Buffer | undefined): Directory => {
    const other = block && openTiff(block);
    if (other) return other.readDirectory(other.first);
    const [offset] = main.get(tag)?.numbers ?? [];
    return offset === undefined ? new Map() : tiff.readDirectory(offset);
  };
  const ifd0 = readTags('ifd0', main);
  const exif = readTags('exif', follow(EXIF_IFD, apart.exif));
  for (const [name, [offset, fraction]] of Object.entries(DATES)) {
    const tags = name in ifd0 ? ifd0 : exif;
    tags[name] = readDate(textOf(tags[name]), textOf(exif[offset]), textOf(exif[fraction]));
  }
  for (const name of OFFSETS) if (!readOffset(textOf(exif[name]))) delete exif[name];
  return { ifd0, exif, gps: readPlace(readTags('gps', follow(GPS_IFD, apart.gps))) };
}

function readTags(block: string, directory: Directory): Tags {
  const names = exifr.tagKeys.get(block);
  const meanings = exifr.tagValues.get(block);
  const tags: Tags = {};
  for (const [tag, entry] of directory) {
    const name = names?.get(tag);
    if (!name || POINTERS.test(name)) continue;
    const value = readValue(name, entry);
    tags[name] = meanings?.get(tag)?.[String(value)] ?? value;
  }
  return tags;
}

function readValue(name: string, { text, bytes, numbers }: Entry): unknown {
  if (text) return decodeText(text);
  if (bytes && name === 'OriginalRawFileName') return decodeText(bytes);
  if (bytes && WINDOWS_TEXT.test(name)) return decodeWide(bytes);
  if (bytes && VERSIONS.includes(name)) return readVersion(bytes);
  if (bytes && name === 'GPSVersionID') return bytes.join('.');
  // FileSource and SceneType are one byte. Longer values are binary data for programs.
  const values = (numbers ?? (bytes?.length === 1 ? [...bytes] : [])).map((value) =>
    Number.isFinite(value) ? value : null,
  );
  if (SINGLE.includes(name)) return values.find((value) => value !== null && value > 0);
  if (values.length === 1) return values[0];
  return values.some((value) => value !== null) ? values : undefined;
}

/** Reads a version from ASCII digits, or from bytes whose values are the digits. */
function readVersion(bytes: Buffer): string | undefined {
  const digits = bytes.every((byte) => byte < 10) ? bytes.join('') : bytes.toString('latin1');
  const [, major, minor = ''] = /^(\d\d)(\d\d)$/.exec(digits) ?? [];
  return major && `${Number(major)}.${minor.replace(/0$/, '')}`;
}

/**
 * Adds the position in degrees and metres to the raw values. Leaves out all tags of the position if it is not valid:
 * programs that remove a position leave zeros.
 */
function readPlace(tags: Tags): Tags {
  const latitude = readDegrees(tags.GPSLatitude, tags.GPSLatitudeRef, { N: 1, S: -1 }, 90);
  const longitude = readDegrees(tags.GPSLongitude, tags.GPSLongitudeRef, { E: 1, W: -1 }, 180);
  // Below the sea if the reference is odd (EXIF 2.31, 4.6.6, and EXIF 3.0).
  const isBelow = Number(tags.GPSAltitudeRef) % 2 === 1;
  const altitude = typeof tags.GPSAltitude === 'number' ? tags.GPSAltitude * (isBelow ? -1 : 1) : undefined;
  const isPlace = latitude !== undefined && longitude !== undefined;
  const isRemoved = latitude === 0 && longitude === 0 && !altitude;
  const gps: Tags = {
    ...tags,
    GPSTimeStamp: readClock(Array.isArray(tags.GPSTimeStamp) ? tags.GPSTimeStamp : []),
    GPSDateStamp: readDate(textOf(tags.GPSDateStamp)),
    altitude,
  };
  if (isPlace && !isRemoved) return { ...gps, latitude, longitude };
  return Object.fromEntries(Object.entries(gps).filter(([name]) => !POSITION.includes(name)));
}

/** Degrees, minutes, seconds; the later ones may be missing. */
function readDegrees(
  parts: unknown,
  reference: unknown,
  signs: Record<string, 1 | -1>,
  limit: number,
): number | undefined {
  const [degrees, minutes, seconds] = [parts].flat() as (number | null | undefined)[];
  const sign = signs[textOf(reference).toUpperCase()];
  if (!sign || typeof degrees !== 'number') return undefined;
  const value = degrees + (minutes ?? 0) / 60 + (seconds ?? 0) / 3600;
  return Math.abs(value) <= limit ? value * sign || 0 : undefined;
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : '');
