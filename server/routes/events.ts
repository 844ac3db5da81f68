import { z } from 'zod';
import type { Event } from '../../core/database/entities/event.js';
import { FILE_EVENT_TYPES } from '../../core/events/types.js';
import { eventLink } from '../answers/events.js';
import type { Keys } from '../auth/keys.js';
import { signCallerLink } from '../auth/links.js';
import { MEDIA_TYPE, setStreamHeaders } from '../live/sse.js';
import type { Streams } from '../live/streams.js';
import { type AnyRoute, route, userOf } from './route.js';

interface EventDeps {
  streams: Streams;
  keys: Keys;
}

const PATH = '/api/events';

/** The number of an event; empty: none. */
const eventId = z
  .string()
  .regex(/^\d{0,15}$/, 'must be the id of an event, a whole number')
  .transform((text) => (text === '' ? undefined : Number(text)))
  .optional();

const MAX_FILES = 100;

const fileIds = z
  .string()
  .transform((text) => text.split(','))
  .pipe(z.array(z.uuid('must be ids of uploads or files, separated by commas')).max(MAX_FILES))
  .transform((ids) => new Set(ids.map((id) => id.toLowerCase())));

/** `file.*` stands for all types that begin with `file.`. */
const GROUPS = ['upload.*', 'file.*'];

const types = z
  .string()
  .transform((text) => text.split(','))
  .refine(
    (names) => names.every((name) => GROUPS.includes(name) || FILE_EVENT_TYPES.includes(name)),
    `must be some of ${[...GROUPS, ...FILE_EVENT_TYPES].join(', ')}, separated by commas`,
  )
  .transform((names) => new Set(names.flatMap(expand)));

function expand(name: string): string[] {
  return name.endsWith('*') ? FILE_EVENT_TYPES.filter((type) => type.startsWith(name.slice(0, -1))) : [name];
}

const query = z.strictObject({
  file: fileIds.optional().describe(`Up to ${MAX_FILES} ids of uploads or files, separated by commas`),
  type: types.optional().describe('Types such as `file.completed`, or `file.*`, separated by commas'),
  after: eventId.describe(
    'The id of the last event that the client has; 0: send all. Last-Event-ID takes precedence',
  ),
  token: z.string().optional(),
});

/** Live events of the caller's uploads and files. */
export function eventRoutes({ streams, keys }: EventDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: PATH,
      access: 'read',
      link: 'caller',
      limit: 'status',
      summary: 'Live events of my uploads and files, as server-sent events',
      query,
      headers: z.object({
        'last-event-id': eventId.describe('The id of the last event that the client has'),
      }),
      answers: { 200: { mediaType: MEDIA_TYPE } },
      problems: ['gone'],
      async handle(call) {
        const { req, res } = call;
        const principal = userOf(call);
        if (req.method === 'HEAD') {
          setStreamHeaders(res);
          res.end();
          return;
        }
        const after = call.headers['last-event-id'] ?? call.query.after;
        await streams.open(res, { principal, after, isWanted: toFilter(call.query) });
      },
    }),
    route({
      method: 'post',
      path: `${PATH}/link`,
      access: 'read',
      limit: 'status',
      summary: 'A signed address of my live events, for an EventSource, which can send no header',
      answers: { 200: eventLink },
      async handle(call) {
        call.res.setHeader('Cache-Control', 'no-store');
        return signCallerLink(PATH, userOf(call), keys.link);
      },
    }),
  ];
}

function toFilter({ file, type }: z.output<typeof query>): (event: Event) => boolean {
  return (event) =>
    (!type || type.has(event.type)) && (!file || (event.subjectId !== null && file.has(event.subjectId)));
}
