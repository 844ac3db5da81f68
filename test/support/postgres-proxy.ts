/**
 * A TCP proxy before PostgreSQL that recognises statements. It can stop a connection before a statement
 * reaches PostgreSQL, or after PostgreSQL has carried it out and before the client gets the answer. It can
 * also be away for a while, and refuse connections or stay silent.
 *
 * A statement is what a client sends up to the answer "ready for query": a simple Query, or the messages of the extended
 * protocol up to Sync. (PostgreSQL manual, "Frontend/Backend Protocol".)
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { freePort } from './services/port.js';

export interface Statement {
  /** The application_name of the statement's connection. */
  application: string;
  /** Tells connections apart. */
  connection: number;
  text: string;
  /** The parameters as text; null for NULL. */
  parameters: (string | null)[];
}

type When = (statement: Statement) => boolean;

interface Pause {
  when: When;
  place: 'before' | 'after';
  hold(statement: Statement): Promise<void>;
}

export interface PostgresProxy {
  /** For startProcesses: the address of that database through this proxy. */
  reach(databaseUrl: string): Promise<string>;
  /** All statements so far, oldest first. */
  statements: Statement[];
  /**
   * Stops the connection of the first statement that matches; `reached` resolves when it stands still. `cut` breaks that
   * connection, `open` lets it go on.
   */
  pauseAt(when: When, place: 'before' | 'after'): { reached: Promise<Statement>; open(): void; cut(): void };
  /**
   * On the next `count` connections, the packet that ends the start-up also says that PostgreSQL shuts down.
   */
  endAsTheyCome(count: number): void;
  /** Open connections are cut, new ones refused. */
  away(): Promise<void>;
  /** PostgreSQL is there again, at the same address. */
  back(): Promise<void>;
  /** As when a host loses its power: nothing is refused and nothing ended, but no byte comes through any more. */
  vanish(): void;
  /** New connections work again. Older connections stay silent. */
  reappear(): void;
  close(): Promise<void>;
}

interface Message {
  /** One letter; empty for the message that opens a connection. */
  type: string;
  /** The whole message, with its head. */
  bytes: Buffer;
}

/** The two sockets of one client. */
interface Link {
  inward: Socket;
  outward: Socket;
  /** Whether PostgreSQL has vanished behind it. */
  dead: boolean;
}

export async function startPostgresProxy(): Promise<PostgresProxy> {
  const statements: Statement[] = [];
  const pauses = new Set<Pause>();
  const sockets = new Set<Socket>();
  const links = new Set<Link>();
  let target = { hostname: '', port: 0 };
  const port = await freePort();
  let connections = 0;
  let toEnd = 0;
  let vanished = false;

  const server = createServer({ allowHalfOpen: true }, (inward) => {
    const outward = connect({ port: target.port, host: target.hostname, allowHalfOpen: true });
    const link: Link = { inward, outward, dead: vanished };
    links.add(link);
    for (const [socket, other] of [
      [inward, outward],
      [outward, inward],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => {});
      // Neither end hears of the other's end any more.
      socket.on('end', () => link.dead || socket.end());
      socket.on('close', () => {
        sockets.delete(socket);
        links.delete(link);
        if (!link.dead) other.destroy();
      });
    }
    connections++;
    if (toEnd > 0) {
      toEnd--;
      endAsItComes(inward, outward);
      return;
    }
    relay(link, connections, async (statement, place) => {
      if (place === 'before') statements.push(statement);
      // Each sees all of them, so that it can count.
      const [pause] = [...pauses].filter((each) => each.place === place && each.when(statement));
      if (pause) await pause.hold(statement);
    });
  });
  const back = async () => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const away = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  await back();

  return {
    statements,
    async reach(databaseUrl) {
      const url = new URL(databaseUrl);
      target = { hostname: url.hostname, port: Number(url.port) };
      url.host = `127.0.0.1:${port}`;
      return url.href;
    },
    pauseAt(when, place) {
      let cut = () => {};
      let open = () => {};
      const opened = new Promise<void>((resolve, reject) => {
        open = resolve;
        cut = () => reject(new Error('cut'));
      });
      opened.catch(() => {});
      const reached = new Promise<Statement>((resolve) => {
        const pause: Pause = {
          when,
          place,
          hold(statement) {
            pauses.delete(pause);
            resolve(statement);
            return opened;
          },
        };
        pauses.add(pause);
      });
      return { reached, open, cut };
    },
    endAsTheyCome(count) {
      toEnd = count;
    },
    away,
    back,
    vanish() {
      vanished = true;
      for (const link of links) link.dead = true;
    },
    reappear() {
      vanished = false;
    },
    close: away,
  };
}

/** A connection that PostgreSQL ends as soon as it is ready. */
function endAsItComes(inward: Socket, outward: Socket): void {
  inward.pipe(outward);
  const read = createReader(true);
  outward.on('data', (data) => {
    for (const { type, bytes } of read(data)) {
      if (type !== 'Z') inward.write(bytes);
      else inward.end(Buffer.concat([bytes, SHUTS_DOWN]));
    }
  });
}

/** ErrorResponse: severity, code and message, each ended by a zero. */
const SHUTS_DOWN = (() => {
  const fields = ['SFATAL', 'VFATAL', 'C57P01', 'Mterminating connection due to administrator command', ''];
  const body = Buffer.from(fields.map((field) => `${field}\0`).join(''));
  const head = Buffer.from('E\0\0\0\0');
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
})();

/**
 * Passes messages on in both directions, one statement at a time.
 * @param visit awaited at both places of each statement; the connection breaks if it throws
 */
function relay(
  link: Link,
  connection: number,
  visit: (statement: Statement, place: 'before' | 'after') => Promise<void>,
): void {
  const { inward, outward } = link;
  const describe = createDescriber(connection);
  let batch: Message[] = [];
  /** The statements that PostgreSQL has not answered yet. */
  const open: Statement[] = [];
  /** The work that each direction still has to do, in order. */
  const queues = { inward: Promise.resolve(), outward: Promise.resolve() };
  const enqueue = (direction: keyof typeof queues, work: () => Promise<void>) => {
    queues[direction] = queues[direction].then(work).catch(() => {
      inward.destroy();
      outward.destroy();
    });
  };

  const readInward = createReader(false);
  inward.on('data', (data) => {
    if (link.dead) return;
    for (const message of readInward(data)) {
      batch.push(message);
      if (['P', 'B', 'D', 'E', 'C'].includes(message.type)) continue;
      const messages = batch;
      batch = [];
      enqueue('inward', async () => {
        const statement = describe(messages);
        if (statement) {
          await visit(statement, 'before');
          open.push(statement);
        }
        if (!link.dead) outward.write(Buffer.concat(messages.map(({ bytes }) => bytes)));
      });
    }
  });
  const readOutward = createReader(true);
  let answer: Buffer[] = [];
  outward.on('data', (data) => {
    for (const { type, bytes } of readOutward(data)) {
      answer.push(bytes);
      // Hold the answer to a statement until it is complete. Messages outside a statement go on at once.
      if (type !== 'Z' && open.length > 0) continue;
      const chunks = answer;
      answer = [];
      const statement = type === 'Z' ? open.shift() : undefined;
      enqueue('outward', async () => {
        if (statement) await visit(statement, 'after');
        if (!link.dead) inward.write(Buffer.concat(chunks));
      });
    }
  });
}

/**
 * Cuts a stream into messages.
 * @param typed whether the first message has a type, as all of the server's have
 */
function createReader(typed: boolean): (data: Buffer) => Message[] {
  let rest = Buffer.alloc(0);
  let opened = typed;
  return (data) => {
    rest = Buffer.concat([rest, data]);
    const messages: Message[] = [];
    for (;;) {
      const head = opened ? 1 : 0;
      if (rest.length < head + 4) return messages;
      const length = head + rest.readUInt32BE(head);
      if (rest.length < length) return messages;
      messages.push({
        type: opened ? String.fromCharCode(rest[0] ?? 0) : '',
        bytes: rest.subarray(0, length),
      });
      rest = rest.subarray(length);
      opened = true;
    }
  };
}

/** Reads what a client sends on one connection. */
function createDescriber(connection: number): (messages: Message[]) => Statement | undefined {
  let application = '';
  /** Texts of prepared statements, by name. */
  const prepared = new Map<string, string>();
  return (messages) => {
    const last = messages.at(-1);
    if (last?.type === '') {
      const fields = last.bytes.toString('utf8', 8).split('\0');
      application = fields.includes('application_name')
        ? (fields[fields.indexOf('application_name') + 1] ?? '')
        : '';
    }
    if (last?.type === 'Q') {
      return {
        application,
        connection,
        text: last.bytes.toString('utf8', 5, last.bytes.length - 1),
        parameters: [],
      };
    }
    if (last?.type !== 'S') return undefined;
    let text = '';
    let parameters: (string | null)[] = [];
    for (const { type, bytes } of messages) {
      if (type === 'P') {
        const [name = '', query = ''] = bytes.toString('utf8', 5).split('\0');
        prepared.set(name, query);
      }
      if (type === 'B') {
        const bound = readBind(bytes);
        text = prepared.get(bound.name) ?? '';
        parameters = bound.parameters;
      }
    }
    return { application, connection, text, parameters };
  };
}

/** Bind: portal, name, formats of the parameters, parameters (each with its length, -1 for NULL), and more. */
function readBind(bytes: Buffer): { name: string; parameters: (string | null)[] } {
  let at = bytes.indexOf(0, 5) + 1;
  const end = bytes.indexOf(0, at);
  const name = bytes.toString('utf8', at, end);
  at = end + 1;
  at += 2 + 2 * bytes.readUInt16BE(at);
  const count = bytes.readUInt16BE(at);
  at += 2;
  const parameters: (string | null)[] = [];
  for (let index = 0; index < count; index++) {
    const length = bytes.readInt32BE(at);
    at += 4;
    parameters.push(length < 0 ? null : bytes.toString('utf8', at, at + length));
    at += Math.max(length, 0);
  }
  return { name, parameters };
}
