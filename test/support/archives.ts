import { crc32, deflateRawSync } from 'node:zlib';

/* Archives: ZIP with its entries in any order, and TAR. */

interface Entry {
  name: string;
  content: Buffer;
  /** Not compressed. */
  isStored?: true;
  /** Its flag says so; the content is what it is. */
  isEncrypted?: true;
  /** What the headers say instead of the real size. */
  size?: number;
}

/** Makes an archive of these entries (PKWARE APPNOTE 4.3). */
export function makeArchive(entries: Entry[], { comment = '' } = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, content, isStored, isEncrypted, size = content.length } of entries) {
    const data = isStored ? content : deflateRawSync(content);
    // From the version that is needed to the length of the extra field, as both headers hold it.
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(isEncrypted ? 1 : 0, 2);
    common.writeUInt16LE(isStored ? 0 : 8, 4);
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(size, 18);
    common.writeUInt16LE(Buffer.byteLength(name), 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, Buffer.from(name), data]);
    const position = Buffer.alloc(14);
    position.writeUInt32LE(offset, 10);
    directory.push(Buffer.from('PK\x01\x02\x14\0'), common, position, Buffer.from(name));
    parts.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  end.writeUInt16LE(entries.length % 65_536, 8);
  end.writeUInt16LE(entries.length % 65_536, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  end.writeUInt16LE(comment.length, 20);
  return Buffer.concat([...parts, central, end, Buffer.from(comment)]);
}

const BLOCK = 512;

/** Makes a TAR archive of these entries (POSIX ustar). A name that does not fit comes before them as a pax header or GNU's long name. */
export function makeTar(entries: { name: string; content?: Buffer }[], long: 'pax' | 'gnu' = 'pax'): Buffer {
  const parts = entries.flatMap(({ name, content = Buffer.alloc(0) }) => {
    const entry = tarEntry(name.slice(0, 100), '0', content);
    if (Buffer.byteLength(name) <= 100) return [entry];
    if (long === 'gnu') return [tarEntry('././@LongLink', 'L', Buffer.from(`${name}\0`)), entry];
    return [tarEntry('PaxHeaders/x', 'x', Buffer.from(paxRecord('path', name))), entry];
  });
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

function tarEntry(name: string, kind: string, content: Buffer): Buffer {
  const header = Buffer.alloc(BLOCK);
  header.write(name);
  header.write('0000644\0', 100);
  header.write(`${content.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('        ', 148);
  header.write(kind, 156);
  header.write('ustar\x0000', 257);
  const sum = header.reduce((all, byte) => all + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)]);
}

/** Such as `30 path=a/long/name`, where the number is the length of the record with itself and its line end. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const length = (digits: number) => Buffer.byteLength(rest) + digits;
  const digits = [1, 2, 3, 4, 5].find((count) => String(length(count)).length === count) ?? 1;
  return `${length(digits)}${rest}`;
}
