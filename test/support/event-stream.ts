import type { TestUser } from './client.js';
import { until } from './until.js';

/** The JSON of one event. */
export interface LiveEvent {
  seq: number;
  type: string;
  subjectId: string;
  data: Record<string, unknown>;
  createdAt: string;
}

export interface EventStream {
  answer: Response;
  /** In the order in which they came. */
  events: LiveEvent[];
  comments: string[];
  /** Each time to reconnect, in milliseconds. */
  retries: number[];
  /** The id that a client sends when it comes back. */
  readonly lastId: string;
  /** Undefined while the stream is open; `cut` if the connection broke. */
  readonly end: 'ended' | 'cut' | undefined;
  /** Waits until an event of this type has come, and returns the first one. */
  heard(type: string, subjectId?: string): Promise<LiveEvent>;
  close(): void;
}

/** Reads a stream of live events as the HTML Standard says (9.2.6). @param query with its question mark */
export async function openEvents(
  user: Pick<TestUser, 'fetch'>,
  query = '',
  headers: Record<string, string> = {},
): Promise<EventStream> {
  const closing = new AbortController();
  const answer = await user.fetch(`/api/events${query}`, { headers, signal: closing.signal });
  const events: LiveEvent[] = [];
  const comments: string[] = [];
  const retries: number[] = [];
  let lastId = headers['Last-Event-ID'] ?? '';
  let end: EventStream['end'];
  const read = (block: string) => {
    let data = '';
    for (const line of block.split('\n')) {
      const [, field = '', value = ''] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (field === '') comments.push(value);
      if (field === 'id') lastId = value;
      if (field === 'data') data += value;
      if (field === 'retry') retries.push(Number(value));
    }
    if (data !== '') events.push(JSON.parse(data));
  };
  const work = async () => {
    let text = '';
    for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      text += chunk;
      const blocks = text.split('\n\n');
      text = blocks.pop() ?? '';
      for (const block of blocks) read(block);
    }
  };
  if (answer.status === 200) {
    work().then(
      () => {
        end = 'ended';
      },
      () => {
        end = 'cut';
      },
    );
  }
  return {
    answer,
    events,
    comments,
    retries,
    get lastId() {
      return lastId;
    },
    get end() {
      return end;
    },
    heard: (type, subjectId) =>
      until(`${type} of ${subjectId ?? 'any'}`, () =>
        events.find((event) => event.type === type && (!subjectId || event.subjectId === subjectId)),
      ),
    close: () => closing.abort(),
  };
}
