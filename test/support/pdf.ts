import { createHash } from 'node:crypto';

/* PDF files, written by hand so that each can be wrong in one way (ISO 32000-1). */

interface PdfOptions {
  /** A text a page. */
  pages: string[];
  /** The document information dictionary; texts are written as UTF-16. */
  info?: Record<string, string>;
  /** Of a page, in points. */
  width?: number;
  height?: number;
  /** Encrypts the file with RC4 (7.6.3, revision 2); '' is a password too. */
  password?: string;
  /** The content of every page instead of its text, with the filters that it is compressed by. */
  content?: { bytes: Buffer; filter: string };
}

const u16 = (value: number) => [value >> 8, value & 0xff];

/** Makes a file with a black square in the upper left corner of each page, and the text below. */
export function makePdfDocument({
  pages,
  info = {},
  width = 300,
  height = 400,
  ...rest
}: PdfOptions): Buffer {
  const count = pages.length;
  const lock = rest.password === undefined ? undefined : lockWith(rest.password);
  const objects: Buffer[] = [];
  const add = (number: number, ...parts: (string | Buffer)[]) => {
    objects[number] = Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  };
  const stream = (number: number, bytes: Buffer, entries = '') => {
    const data = lock ? lock.encrypt(number, bytes) : bytes;
    add(number, `<< ${entries} /Length ${data.length} >>\nstream\n`, data, '\nendstream');
  };
  const text = (number: number, value: string) => {
    const bytes = Buffer.from([0xfe, 0xff, ...[...Buffer.from(value, 'utf16le').swap16()]]);
    return `<${(lock ? lock.encrypt(number, bytes) : bytes).toString('hex')}>`;
  };

  add(1, '<< /Type /Catalog /Pages 2 0 R >>');
  const kids = pages.map((_, index) => `${5 + 2 * index} 0 R`).join(' ');
  add(2, `<< /Type /Pages /Kids [${kids}] /Count ${count} >>`);
  add(3, '<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>');
  const entries = Object.entries(info).map(([key, value]) => `/${key} ${text(4, value)}`);
  add(4, `<< ${entries.join(' ')} >>`);
  for (const [index, words] of pages.entries()) {
    const box = `/MediaBox [0 0 ${width} ${height}] /Resources << /Font << /F 3 0 R >> >>`;
    add(5 + 2 * index, `<< /Type /Page /Parent 2 0 R ${box} /Contents ${6 + 2 * index} 0 R >>`);
    const drawing = `0 ${height - 100} 100 100 re f BT /F 12 Tf 20 200 Td (${words}) Tj ET`;
    if (rest.content) stream(6 + 2 * index, rest.content.bytes, `/Filter ${rest.content.filter}`);
    else stream(6 + 2 * index, Buffer.from(drawing));
  }
  if (lock) add(5 + 2 * count, lock.dictionary);
  return assemble(objects, lock ? `/Encrypt ${5 + 2 * count} 0 R /ID [<${ID}> <${ID}>]` : '');
}

/** Puts objects behind a header and before a cross-reference table; the object 0 does not exist. */
function assemble(objects: Buffer[], trailer: string): Buffer {
  const parts = [Buffer.from('%PDF-1.4\n')];
  let position = parts[0]?.length ?? 0;
  const offsets = ['0000000000 65535 f \n'];
  for (const [number, body] of objects.entries()) {
    if (number === 0) continue;
    const object = Buffer.concat([Buffer.from(`${number} 0 obj\n`), body, Buffer.from('\nendobj\n')]);
    offsets.push(`${String(position).padStart(10, '0')} 00000 n \n`);
    parts.push(object);
    position += object.length;
  }
  const table = `xref\n0 ${objects.length}\n${offsets.join('')}trailer\n<< /Size ${objects.length} /Root 1 0 R /Info 4 0 R ${trailer} >>`;
  return Buffer.concat([...parts, Buffer.from(`${table}\nstartxref\n${position}\n%%EOF\n`)]);
}

const ID = '00112233445566778899aabbccddeeff';

/** The string that passwords are padded with (7.6.3.3, algorithm 2). */
const PADDING = Buffer.from('28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a', 'hex');

const md5 = (...parts: Buffer[]) => createHash('md5').update(Buffer.concat(parts)).digest();

function lockWith(password: string): { dictionary: string; encrypt(number: number, bytes: Buffer): Buffer } {
  const pad = (text: string) => Buffer.concat([Buffer.from(text), PADDING]).subarray(0, 32);
  const owner = rc4(md5(pad('owner')).subarray(0, 5), pad(password));
  const permissions = Buffer.alloc(4);
  permissions.writeInt32LE(-4);
  const key = md5(pad(password), owner, permissions, Buffer.from(ID, 'hex')).subarray(0, 5);
  const user = rc4(key, PADDING);
  return {
    dictionary: `<< /Filter /Standard /V 1 /R 2 /P -4 /O <${owner.toString('hex')}> /U <${user.toString('hex')}> >>`,
    encrypt(number, bytes) {
      const salt = Buffer.from([...u16(number).reverse(), 0, 0, 0]);
      return rc4(md5(key, salt).subarray(0, 10), bytes);
    },
  };
}

/** RC4, which OpenSSL no longer offers. */
function rc4(key: Buffer, bytes: Buffer): Buffer {
  const state = Uint8Array.from({ length: 256 }, (_, index) => index);
  const at = (index: number) => state[index & 0xff] ?? 0;
  const swap = (a: number, b: number) => {
    [state[a & 0xff], state[b & 0xff]] = [at(b), at(a)];
  };
  for (let i = 0, j = 0; i < 256; i++) {
    j = (j + at(i) + (key[i % key.length] ?? 0)) & 0xff;
    swap(i, j);
  }
  let j = 0;
  return Buffer.from(
    bytes.map((byte, index) => {
      const i = index + 1;
      j = (j + at(i)) & 0xff;
      swap(i, j);
      return byte ^ at(at(i) + at(j));
    }),
  );
}
