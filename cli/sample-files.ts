import { createHash } from 'node:crypto';
import sharp from 'sharp';

/*
 * Sample files as people have them: photographs with EXIF and a place, screenshots, notes, tables, and now and then a file
 * that is damaged or infected. The same number always makes the same file.
 */

export interface SampleFile {
  name: string;
  type: string;
  make(): Promise<Buffer>;
}

/** Numbers from 0 to 1 that look random, always the same for one name. */
function numbersOf(name: string): (index: number) => number {
  const digest = createHash('sha512').update(name).digest();
  return (index) => digest.readUInt32BE((index * 4) % 60) / 2 ** 32;
}

const pad = (number: number, length: number) => String(number).padStart(length, '0');

/** Towns with their latitude and longitude in degrees. */
const TOWNS = [
  { latitude: 60.17, longitude: 24.94 },
  { latitude: -33.87, longitude: 151.21 },
  { latitude: 19.43, longitude: -99.13 },
  { latitude: 35.68, longitude: 139.69 },
];

/** The n-th file of a person. */
export function sampleFile(person: string, n: number): SampleFile {
  const kinds = [
    photograph,
    photograph,
    screenshot,
    notes,
    photograph,
    table,
    scan,
    notes,
    damaged,
    infected,
  ];
  const kind = kinds[n % kinds.length] ?? photograph;
  return kind(`${person}/${n}`, n);
}

function photograph(seed: string, n: number): SampleFile {
  const at = numbersOf(seed);
  const taken = new Date(
    Date.UTC(2026, Math.floor(at(0) * 12), 1 + Math.floor(at(1) * 28), Math.floor(at(2) * 24), n % 60),
  );
  return {
    name: `IMG_${pad(1000 + n, 4)}.jpg`,
    type: 'image/jpeg',
    make: () => {
      const { latitude, longitude } = TOWNS[Math.floor(at(3) * TOWNS.length)] ?? {
        latitude: 0,
        longitude: 0,
      };
      return picture(at, 1600, 1200)
        .withExif({
          IFD0: { Make: 'Landfall', Model: 'Sample camera' },
          IFD2: { DateTimeOriginal: taken.toISOString().slice(0, 19).replaceAll('-', ':').replace('T', ' ') },
          IFD3: {
            GPSLatitudeRef: latitude < 0 ? 'S' : 'N',
            GPSLatitude: degrees(latitude),
            GPSLongitudeRef: longitude < 0 ? 'W' : 'E',
            GPSLongitude: degrees(longitude),
          },
        })
        .jpeg({ quality: 85 })
        .toBuffer();
    },
  };
}

/** As EXIF has it: degrees, minutes and seconds, each as a fraction. */
function degrees(value: number): string {
  const seconds = Math.round(Math.abs(value) * 3600);
  return `${Math.floor(seconds / 3600)}/1 ${Math.floor(seconds / 60) % 60}/1 ${seconds % 60}/1`;
}

/** Sky, sea and a sun. */
function picture(at: (index: number) => number, width: number, height: number) {
  const hue = Math.floor(at(4) * 360);
  const horizon = Math.floor((0.4 + at(5) * 0.3) * height);
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">
    <defs><linearGradient id="sky" x1="0" y1="0" x2="0" y2="1">
      <stop offset="0" stop-color="hsl(${hue},60%,35%)"/><stop offset="1" stop-color="hsl(${(hue + 40) % 360},80%,75%)"/>
    </linearGradient></defs>
    <rect width="100%" height="100%" fill="url(#sky)"/>
    <circle cx="${Math.floor(at(6) * width)}" cy="${Math.floor(at(7) * horizon)}" r="${60 + Math.floor(at(8) * 90)}" fill="#fff3c0"/>
    <rect y="${horizon}" width="100%" height="${height - horizon}" fill="hsl(${(hue + 180) % 360},45%,30%)"/>
  </svg>`;
  return sharp(Buffer.from(svg)).flatten({ background: '#ffffff' });
}

function screenshot(seed: string, n: number): SampleFile {
  return {
    name: `Screenshot ${pad(n, 3)}.png`,
    type: 'image/png',
    make: () => picture(numbersOf(seed), 1280, 800).png().toBuffer(),
  };
}

function scan(seed: string, n: number): SampleFile {
  return {
    name: `scan-${pad(n, 3)}.webp`,
    type: 'image/webp',
    make: () => picture(numbersOf(seed), 1240, 1754).grayscale().webp().toBuffer(),
  };
}

const WORDS = 'tide pilot harbour anchor lantern chart gull rope current compass keel landfall'.split(' ');

function notes(seed: string, n: number): SampleFile {
  const at = numbersOf(seed);
  const lines = Array.from({ length: 40 }, (_, line) =>
    Array.from({ length: 9 }, (_, word) => WORDS[Math.floor(at(line * 9 + word) * WORDS.length)]).join(' '),
  );
  return {
    name: `notes ${pad(n, 3)}.txt`,
    type: 'text/plain',
    make: async () => Buffer.from(`Notes, page ${n}\n\n${lines.join('.\n')}.\n`),
  };
}

function table(seed: string, n: number): SampleFile {
  const at = numbersOf(seed);
  const rows = Array.from(
    { length: 200 },
    (_, row) => `${row + 1},${WORDS[row % WORDS.length]},${(at(row) * 1000).toFixed(2)}`,
  );
  return {
    name: `cargo-${pad(n, 3)}.csv`,
    type: 'text/csv',
    make: async () => Buffer.from(`number,article,price\n${rows.join('\n')}\n`),
  };
}

/** A photograph whose second half is missing: its processing fails, or notes it. */
function damaged(seed: string, n: number): SampleFile {
  const whole = photograph(seed, n);
  return {
    ...whole,
    name: `damaged-${pad(n, 3)}.jpg`,
    make: async () => {
      const bytes = await whole.make();
      return bytes.subarray(0, bytes.length / 2);
    },
  };
}

/** The test string of EICAR, which every scanner takes for a virus. It stands here in two parts, so that this file is clean. */
function infected(_seed: string, n: number): SampleFile {
  return {
    name: `infected-${pad(n, 3)}.txt`,
    type: 'text/plain',
    make: async () =>
      Buffer.from('X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-' + 'ANTIVIRUS-TEST-FILE!$H+H*'),
  };
}
