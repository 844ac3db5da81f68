import { randomBytes } from 'node:crypto';
import { crc32, createDeflate, deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';

/*
 * Real files, made when they are asked for: by sharp where it can, by hand where a file must be wrong in just one
 * way, or where sharp cannot write the format.
 */

/** EXIF that photographs carry. The place is 48°51'30" N, 2°17'40" W, 35 m up. */
const EXIF = {
  IFD0: { Make: 'Landfall', Model: 'Test 1' },
  IFD2: { DateTimeOriginal: '2024:05:06 07:08:09' },
  IFD3: {
    GPSLatitudeRef: 'N',
    GPSLatitude: '48/1 51/1 30/1',
    GPSLongitudeRef: 'W',
    GPSLongitude: '2/1 17/1 40/1',
    GPSAltitudeRef: '0',
    GPSAltitude: '35/1',
  },
};

/** An XMP packet with a title and a rating, and with names that must not be taken for measured facts. */
const XMP = `<?xpacket begin="\uFEFF" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:image="urn:image" xmlns:gps="urn:gps" xmp:Rating="4" image:width="forged" gps:latitude="forged">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Le phare</rdf:li></rdf:Alt></dc:title>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>`;

interface Size {
  width: number;
  height: number;
}

/** Its left half is red, its right half blue, so that a thumbnail shows which way is up. */
function picture({ width, height }: Size): Sharp {
  const left = { width: Math.floor(width / 2), height, channels: 3, background: '#d02020' } as const;
  return sharp({ create: { width, height, channels: 3, background: '#2020d0' } }).composite([
    { input: { create: left }, left: 0, top: 0 },
  ]);
}

/** A photograph with EXIF, GPS, IPTC and XMP, stored lying on its side: shown, it is `height` wide. Taken 35 m below the sea. */
export async function makePhotograph(size: Size = { width: 1600, height: 1000 }): Promise<Buffer> {
  const jpeg = await picture(size)
    .withExif({ ...EXIF, IFD0: { ...EXIF.IFD0, Orientation: '1' } })
    .withXmp(XMP)
    .withMetadata({ orientation: 6 })
    .jpeg()
    .toBuffer();
  // libvips leaves GPSAltitudeRef 0; 1 is below the sea.
  const reference = jpeg.indexOf(Buffer.from('050001000100000000', 'hex'));
  jpeg.writeUInt8(1, reference + 8);
  return insertIptc(jpeg);
}

export const makeJpeg = (size: Size): Promise<Buffer> => picture(size).jpeg().toBuffer();
export const makePng = (size: Size): Promise<Buffer> => picture(size).png().toBuffer();
export const makeGif = (size: Size): Promise<Buffer> => picture(size).gif().toBuffer();
export const makeTiff = (size: Size): Promise<Buffer> => picture(size).withExif(EXIF).tiff().toBuffer();
export const makeAvif = (size: Size): Promise<Buffer> =>
  picture(size).withExif(EXIF).avif({ effort: 0 }).toBuffer();
export const makeWebp = (size: Size): Promise<Buffer> =>
  picture(size).withExif(EXIF).withXmp(XMP).webp().toBuffer();

/** Puts an APP13 segment (Photoshop's resource 0x0404) behind the start of a JPEG. */
function insertIptc(jpeg: Buffer): Buffer {
  const dataset = (number: number, text: string) =>
    Buffer.concat([Buffer.from([0x1c, 2, number, 0, text.length]), Buffer.from(text)]);
  const record = Buffer.concat([dataset(5, 'Landing'), dataset(80, 'Ada'), dataset(25, 'lighthouse')]);
  const resource = Buffer.concat([
    Buffer.from('Photoshop 3.0\x008BIM\x04\x04\x00\x00', 'latin1'),
    u32(record.length),
    record,
    Buffer.alloc(record.length % 2),
  ]);
  const segment = Buffer.concat([Buffer.from([0xff, 0xed]), u16(resource.length + 2), resource]);
  return Buffer.concat([jpeg.subarray(0, 2), segment, jpeg.subarray(2)]);
}

/** A JPEG whose second half never arrived. */
export async function makeTruncatedJpeg(): Promise<Buffer> {
  const { data } = await sharp(randomBytes(800 * 600 * 3), { raw: { width: 800, height: 600, channels: 3 } })
    .jpeg()
    .toBuffer({ resolveWithObject: true });
  return data.subarray(0, data.length / 2);
}

/** A PNG that says it has 50,000 × 50,000 pixels; the small stream of zeros in it goes on for a while. */
export function makePngBomb(): Buffer {
  return wrapPng({ width: 50_000, height: 50_000 }, [8, 2], deflateSync(Buffer.alloc(10 * 1024 ** 2)));
}

/** 90 megapixels of nothing, interlaced, so that a decoder must hold them all: some 270 MB from one of 1.2 MB. */
export async function makeHungryPng(): Promise<Buffer> {
  const size = { width: 9_480, height: 9_480 };
  // Each of the seven passes has rows and filter bytes of its own; a few zeros too many do no harm.
  return wrapPng(size, [8, 2, 0, 0, 1], await deflateZeros((size.width * 3 + 8) * (size.height + 8)));
}

/** A square with 16 bits for each of four channels: of 90 megapixels, seconds of work in a file of 3 MB. */
export async function makeSlowPng(side = 9_480): Promise<Buffer> {
  const size = { width: side, height: side };
  return wrapPng(size, [16, 6], await deflateZeros((size.width * 8 + 1) * size.height));
}

/** @param rest bit depth and colour type, then compression, filter and interlace if not 0 */
function wrapPng({ width, height }: Size, rest: number[], data: Buffer): Buffer {
  const header = Buffer.concat([u32(width), u32(height), Buffer.from(rest), Buffer.alloc(5 - rest.length)]);
  const chunk = (type: string, content: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), content]);
    return Buffer.concat([u32(content.length), body, u32(crc32(body))]);
  };
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', header),
    chunk('IDAT', data),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

async function deflateZeros(length: number): Promise<Buffer> {
  const zeros = Buffer.alloc(1024 ** 2);
  const deflate = createDeflate({ level: 1, chunkSize: 64 * 1024 });
  const output: Buffer[] = [];
  deflate.on('data', (chunk) => output.push(chunk));
  for (let left = length; left > 0; left -= zeros.length) {
    await new Promise((done) => deflate.write(zeros.subarray(0, Math.min(left, zeros.length)), done));
  }
  await new Promise<void>((done) => deflate.end().on('end', () => done()));
  return Buffer.concat(output);
}

/** A HEIC image as telephones make them, with EXIF, whose picture is HEVC (here without a single byte of it). */
export async function makeHeic(): Promise<Buffer> {
  const { exif = Buffer.alloc(0) } = await sharp(await makeWebp({ width: 8, height: 8 })).metadata();
  const tiff = exif.subarray(exif.toString('latin1', 0, 4) === 'Exif' ? 6 : 0);
  const items = [Buffer.alloc(16), Buffer.concat([u32(0), tiff])];
  const version0 = u32(0);
  const head = (start: number) =>
    Buffer.concat([
      box('ftyp', Buffer.from('heic\0\0\0\0mif1heic')),
      box(
        'meta',
        version0,
        box('hdlr', version0, u32(0), Buffer.from('pict'), Buffer.alloc(13)),
        box('pitm', version0, u16(1)),
        box('iinf', version0, u16(2), itemInfo(1, 'hvc1'), itemInfo(2, 'Exif')),
        box('iref', version0, box('cdsc', u16(2), u16(1), u16(1))),
        box(
          'iprp',
          box(
            'ipco',
            box('hvcC', Buffer.from('01016000000090000000005df000fcfdf8f800000f00', 'hex'), Buffer.alloc(1)),
            box('ispe', version0, u32(4032), u32(3024)),
          ),
          box('ipma', version0, u32(1), u16(1), Buffer.from([2, 0x81, 2])),
        ),
        box('iloc', version0, Buffer.from([0x44, 0]), u16(2), ...itemLocations(items, start)),
      ),
    ]);
  const start = head(0).length + 8;
  return Buffer.concat([head(start), box('mdat', ...items)]);
}

/** A box of the ISO base media file format (ISO/IEC 14496-12). */
function box(type: string, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([u32(body.length + 8), Buffer.from(type), body]);
}

const itemInfo = (id: number, type: string) =>
  box('infe', Buffer.from([2, 0, 0, 0]), u16(id), u16(0), Buffer.from(`${type}\0`));

function itemLocations(items: Buffer[], start: number): Buffer[] {
  let position = start;
  return items.map((item, index) => {
    const entry = Buffer.concat([u16(index + 1), u16(0), u16(1), u32(position), u32(item.length)]);
    position += item.length;
    return entry;
  });
}

const u16 = (value: number) => Buffer.from([value >>> 8, value & 0xff]);
const u32 = (value: number) => Buffer.concat([u16(value >>> 16), u16(value & 0xffff)]);

/** One empty page. */
export function makePdf(): Buffer {
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
    '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>',
  ];
  let text = '%PDF-1.4\n';
  const offsets = objects.map((object, index) => {
    const offset = text.length;
    text += `${index + 1} 0 obj\n${object}\nendobj\n`;
    return `${String(offset).padStart(10, '0')} 00000 n \n`;
  });
  const table = text.length;
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.join('')}`;
  text += `trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${table}\n%%EOF\n`;
  return Buffer.from(text);
}

export const makeSvg = (): Buffer =>
  Buffer.from(
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(document.domain)</script></svg>',
  );

/** The same with an XML declaration. */
export const makeXmlSvg = (): Buffer => Buffer.concat([Buffer.from('<?xml version="1.0"?>\n'), makeSvg()]);

export const makeHtml = (): Buffer =>
  Buffer.from('<!DOCTYPE html><html><script>alert(document.domain)</script></html>');

/** An archive without any entry but one empty file. */
export function makeZip(): Buffer {
  const name = Buffer.from('a.txt');
  const local = Buffer.alloc(30);
  local.write('PK\x03\x04', 'latin1');
  local.writeUInt16LE(name.length, 26);
  const central = Buffer.alloc(46);
  central.write('PK\x01\x02', 'latin1');
  central.writeUInt16LE(name.length, 28);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(central.length + name.length, 12);
  end.writeUInt32LE(local.length + name.length, 16);
  return Buffer.concat([local, name, central, name, end]);
}

/**
 * The EICAR test string (eicar.org), which every scanner takes for a virus and which does nothing. In two halves,
 * or scanners would find it in this source.
 */
export const eicar = (): Buffer =>
  Buffer.from(['X5O!P%@AP[4\\PZX54(P^)7CC)7}$', 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'].join(''));
