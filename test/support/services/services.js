// The services that tests use. Each is the one that the environment names, or else one that is started here.
import { startCeph } from './ceph.js';
import { startPostgres } from './postgres.js';
import { ensurePrograms, findProgram } from './programs.js';

/**
 * @typedef {object} Started
 * @property {Record<string, string>} env by which suites find the service
 * @property {() => Promise<void>} stop
 */

const CHROMIUM = ['chromium', 'chromium-browser', 'google-chrome'];

const SERVICES = [
  {
    helper: 'test/support/database.ts',
    variables: ['TEST_DATABASE_URL'],
    programs: [],
    packages: [],
    start: startPostgres,
  },
  {
    helper: 'test/support/s3.ts',
    variables: ['TEST_S3_ENDPOINT', 'TEST_S3_ACCESS_KEY_ID', 'TEST_S3_SECRET_ACCESS_KEY'],
    programs: ['ceph-mon', 'ceph-osd', 'radosgw', 'radosgw-admin', 'ceph', 'monmaptool'].map((name) => [
      name,
    ]),
    packages: ['ceph-mon', 'ceph-osd', 'radosgw'],
    start: async () => (process.env.TEST_S3_ENDPOINT ? nothing() : startCeph()),
  },
  {
    // Each suite starts a Redis of its own.
    helper: 'test/support/redis.ts',
    variables: ['TEST_REDIS_URL'],
    programs: [['redis-server']],
    packages: ['redis-server'],
    start: async () => nothing(),
  },
  {
    // A suite starts its own.
    helper: 'test/support/haproxy.ts',
    variables: ['HAPROXY_PATH'],
    programs: [['haproxy']],
    packages: ['haproxy'],
    start: async () => nothing({ HAPROXY_PATH: process.env.HAPROXY_PATH ?? 'haproxy' }),
  },
  {
    // A suite starts a receiver of hooks that was written for tusd.
    helper: 'test/support/tusd-receiver.ts',
    variables: [],
    programs: [['python3']],
    packages: ['python3'],
    start: async () => nothing(),
  },
  {
    // Suites run it themselves.
    helper: 'test/support/certificates.ts',
    variables: [],
    programs: [['openssl']],
    packages: ['openssl'],
    start: async () => nothing(),
  },
  {
    // Suites kill and stop it, so each starts its own.
    helper: 'test/support/nats.ts',
    variables: ['NATS_SERVER_PATH'],
    programs: [['nats-server']],
    packages: ['nats-server'],
    start: async () => nothing({ NATS_SERVER_PATH: process.env.NATS_SERVER_PATH ?? 'nats-server' }),
  },
  {
    // Suites kill and stop it, so each starts its own. Its signatures are the suite's.
    helper: 'test/support/clamd.ts',
    variables: ['CLAMD_PATH'],
    programs: [['clamd']],
    packages: ['clamav-daemon'],
    start: async () => nothing({ CLAMD_PATH: process.env.CLAMD_PATH ?? findProgram(['clamd']) ?? '' }),
  },
  {
    // Suites run it themselves, and so do their workers.
    helper: 'test/support/recordings.ts',
    variables: [],
    programs: [['ffmpeg'], ['ffprobe']],
    packages: ['ffmpeg'],
    start: async () => nothing(),
  },
  {
    helper: 'test/support/browser.ts',
    variables: ['CHROMIUM_PATH'],
    programs: [CHROMIUM],
    packages: ['chromium'],
    start: async () => nothing({ CHROMIUM_PATH: process.env.CHROMIUM_PATH ?? findProgram(CHROMIUM) ?? '' }),
  },
];

/** @param {Record<string, string>} [env] @returns {Started} */
function nothing(env = {}) {
  return { env, stop: async () => {} };
}

/**
 * Starts, side by side, the services behind these helpers.
 * @param {Set<string>} helpers such as 'test/support/s3.ts'
 * @returns {Promise<Started>}
 * @throws {Error} with one line that says what to set or to install
 */
export async function startServices(helpers) {
  const used = SERVICES.filter((service) => helpers.has(service.helper));
  ensurePrograms(used.filter((service) => !isGiven(service)));
  const results = await Promise.allSettled(used.map((service) => service.start()));
  const started = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const stop = async () => void (await Promise.all(started.map((service) => service.stop())));
  const failure = results.find((result) => result.status === 'rejected');
  if (failure) {
    await stop();
    throw failure.reason;
  }
  return { env: Object.assign({}, ...started.map((service) => service.env)), stop };
}

/** @param {{ variables: string[] }} service */
function isGiven({ variables }) {
  const [first, ...others] = variables;
  if (!first || !process.env[first]) return false;
  const absent = others.filter((name) => !process.env[name]);
  if (absent.length > 0) throw new Error(`${first} is set: set ${absent.join(' and ')} too.`);
  return true;
}
