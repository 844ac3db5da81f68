import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type JetStreamManager, jetstreamManager, type StoredMsg } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { startGuarded } from './guarded.js';
import { freePort } from './services/port.js';

/** What happens to a file, as a consumer of the stream sees it. */
export interface StreamMessage {
  /** The Nats-Msg-Id. */
  id: string;
  subject: string;
  body: { seq: number; type: string; subjectId: string; ownerId: string; data: Record<string, unknown> };
}

export interface NatsServer {
  port: number;
  /** Of a user that may do everything. */
  url: string;
  /** @param settings lines of its configuration, in place of JetStream for every account */
  start(settings?: string): Promise<void>;
  /** SIGKILL, at once. What is stored stays. */
  kill(): Promise<void>;
  pid(): number;
  /** Does something as another client. */
  as<T>(act: (manager: JetStreamManager) => Promise<T>): Promise<T>;
  /** All messages of a stream, in its order. */
  read(stream: string): Promise<StreamMessage[]>;
  close(): Promise<void>;
}

const USER = 'user';
/** Must be escaped in an address. */
const PASSWORD = 'p@ss:word/%';

/** A nats-server that is not started yet. */
export async function createNatsServer(): Promise<NatsServer> {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), 'landfall-nats-'));
  const config = join(folder, 'nats.conf');
  const jetStream = `jetstream { store_dir: "${folder}/store" }`;
  const authorization = `authorization { user: ${USER}, password: "${PASSWORD}" }`;
  let running: { kill(): Promise<void> } | undefined;
  let pid = 0;

  async function client(): Promise<NatsConnection> {
    return connect({ servers: `127.0.0.1:${port}`, user: USER, pass: PASSWORD, reconnect: false });
  }

  const server: NatsServer = {
    port,
    url: `nats://${USER}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}`,
    async start(settings = `${jetStream}\n${authorization}`) {
      await writeFile(
        config,
        `listen: "127.0.0.1:${port}"\n${settings.replace('$STORE', `${folder}/store`)}`,
      );
      const { shell, kill } = startGuarded(process.env.NATS_SERVER_PATH ?? '', ['-c', config]);
      running = { kill };
      let output = '';
      await new Promise<void>((resolve, reject) => {
        shell.stdout.on('data', (chunk) => {
          output += chunk;
          if (output.includes('Server is ready')) resolve();
        });
        // The shell has closed its side, so only nats-server holds this end open.
        shell.stdout.on('end', () => reject(new Error(`nats-server did not start: ${output}`)));
        shell.on('error', reject);
      });
      pid = Number(/\[(\d+)\]/.exec(output)?.[1]);
    },
    async kill() {
      await running?.kill();
    },
    pid: () => pid,
    async as(act) {
      const connection = await client();
      try {
        return await act(await jetstreamManager(connection));
      } finally {
        await connection.close();
      }
    },
    read: (stream) =>
      server.as(async (manager) => {
        const { state } = await manager.streams.info(stream);
        const messages: StreamMessage[] = [];
        for (let seq = state.first_seq; seq <= state.last_seq && state.messages > 0; seq++) {
          const stored = await manager.streams.getMessage(stream, { seq });
          if (stored) messages.push(toMessage(stored));
        }
        return messages;
      }),
    async close() {
      await running?.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return server;
}

function toMessage(stored: StoredMsg): StreamMessage {
  return { id: stored.header.get('Nats-Msg-Id'), subject: stored.subject, body: stored.json() };
}
