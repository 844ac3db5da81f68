import { z } from 'zod';

/*
 * Shapes that more than one answer has. The schemas in this folder describe the JSON of the answers. A codec has two
 * sides: its input is the JSON that clients read, its output is the value that the server's handlers return. This
 * folder imports zod only, so that the page can take its types from here.
 */

export const id = z.uuid().describe('UUID, version 7');

/** The server returns a Date, which JSON shows as ISO 8601 in UTC. */
export const timestamp = z.codec(z.iso.datetime(), z.date(), {
  decode: (text) => new Date(text),
  encode: (date) => date.toISOString(),
});

export const bytes = z.int().min(0).describe('Bytes');

/** One page of a list. */
export function pageOf<Item extends z.ZodType>(item: Item) {
  return z.object({
    items: z.array(item),
    nextCursor: z
      .string()
      .nullable()
      .describe('Send it as `cursor` to get the next page; null if there is none'),
  });
}

/** Why a file or one of its steps failed. */
export const fault = z
  .object({ step: z.string(), code: z.string(), detail: z.string() })
  .meta({ id: 'Fault', description: 'Why a file, or one step of its processing, failed' });

/** The body of every error answer (RFC 9457). */
export const problem = z
  .object({
    type: z.literal('about:blank'),
    title: z.string(),
    status: z.int(),
    code: z.string().describe('Stable; programs may rely on it'),
    detail: z.string().optional(),
  })
  .meta({ id: 'Problem', description: 'RFC 9457' });
