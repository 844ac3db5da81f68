import { resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { createLogger } from '../../core/log.js';
import type { Description } from '../../core/media/documents/description.js';
import type { Kind } from '../../core/media/documents/kinds.js';
import type { startParsers } from '../../core/media/parsers.js';

/** A parser process as the worker starts it, in its sandbox, to which a test gives documents. */
export interface DocumentParser {
  /** @param size of the whole, if `content` is only its beginning */
  describe(reader: Kind['reader'], content: Buffer, size?: number): Promise<Description>;
  close(): void;
}

export async function startDocumentParser({
  memoryMib = 400,
  timeoutSeconds = 60,
} = {}): Promise<DocumentParser> {
  // The built one: a process is started from its file.
  const { href } = pathToFileURL(resolve('dist/core/media/parsers.js'));
  const built: { startParsers: typeof startParsers } = await import(href);
  const pool = built.startParsers({
    count: 1,
    timeoutSeconds,
    maxImagePixels: 100_000_000,
    memory: memoryMib * 1024 ** 2,
    log: createLogger('silent', 'test'),
  });
  return {
    describe(reader, content, size = content.length) {
      const source = { size, sent: content.length, read: async () => Readable.from([content]) };
      return pool.run('document', source, new AbortController().signal, { reader });
    },
    close: pool.close,
  };
}
