import { encodeMetadata, registerUser, type TestUser } from '../support/client.js';
import { beginConcatenation } from '../support/concatenated-upload.js';
import { type Dialect, IETF } from '../support/dialects.js';
import { type Installation, install } from '../support/installation.js';
import { groupPoints, type KillPoint, killAtAll, type Target, takeContent } from '../support/kill.js';
import { beginUpload, MIB, type PiecewiseUpload } from '../support/piecewise-upload.js';
import { type PostgresProxy, type Statement, startPostgresProxy } from '../support/postgres-proxy.js';

/*
 * The server is killed before and after every statement that it sends to PostgreSQL for an upload.
 *
 * A statement belongs to an upload if it names the upload's id or, until that is known, its file name, or if
 * it follows such a statement in the same transaction. BEGIN names nothing, but a kill at BEGIN changes
 * nothing in the database.
 */

/** How many uploads stand still at a time: fewer than the server has connections. */
const ABREAST = 8;

let installation: Installation;
let postgres: PostgresProxy;
/** One user for each upload at a time: creations of one user at the same moment go in one statement. */
let users: TestUser[];

beforeAll(async () => {
  postgres = await startPostgresProxy();
  installation = await install({
    parts: ['server'],
    env: { UPLOAD_MEMORY_BUDGET: '512MiB' },
    reach: postgres.reach,
  });
  const { processes } = installation;
  users = await Promise.all(Array.from({ length: ABREAST }, () => registerUser(() => processes.url)));
});
afterAll(async () => {
  await installation?.close();
  await postgres?.close();
});

/** A predicate that picks the server's statements about one upload. It has to see all statements. */
function isAbout(filename: string): (statement: Statement) => boolean {
  const names = [filename];
  /** Connections in a transaction, and whether it has named the upload. */
  const transactions = new Map<number, boolean>();
  return ({ application, connection, text, parameters }) => {
    if (application === 'landfall worker' || isTimer(text)) return false;
    if (/^(START TRANSACTION|BEGIN)/.test(text)) transactions.set(connection, false);
    const named = parameters.some((value) => value !== null && names.some((name) => value.includes(name)));
    if (named && /INSERT INTO uploads/.test(text))
      names.push(/[\da-f-]{36}/.exec(parameters[0] ?? '')?.[0] ?? '');
    const belongs = named || transactions.get(connection) === true;
    if (/^(COMMIT|ROLLBACK)/.test(text)) transactions.delete(connection);
    else if (transactions.has(connection)) transactions.set(connection, belongs);
    return belongs;
  };
}

/** Whether it is the renewal of leases, which a timer sends at any moment. */
function isTimer(text: string): boolean {
  return /unnest.*SET lease_expires_at = now\(\)/s.test(text);
}

let uploads = 0;

function takeName() {
  uploads++;
  const filename = `upload-${uploads}.bin`;
  const user = users[uploads % ABREAST] as TestUser;
  return { filename, user, headers: { 'Upload-Metadata': encodeMetadata({ filename }) } };
}

/** The kind of upload of one test. */
interface Way {
  /** Bytes of its pieces, or of those of each of its partial uploads. */
  sizes: number[] | number[][];
  finalFirst?: boolean;
  /** Whether each PATCH carries a checksum, and so counts as a whole or not at all. */
  checksum?: boolean;
  /** Undefined: tus. */
  dialect?: Dialect;
}

const isOfPartials = (sizes: Way['sizes']): sizes is number[][] => Array.isArray(sizes[0]);

function begin(
  user: TestUser,
  content: Buffer,
  way: Way,
  headers: Record<string, string>,
): Promise<PiecewiseUpload> {
  const { sizes, finalFirst = false, ...manner } = way;
  return isOfPartials(sizes)
    ? beginConcatenation(user, content, sizes, { headers, finalFirst })
    : beginUpload(user, content, sizes, { headers, ...manner });
}

/** Makes an upload without faults. @returns its statements */
async function listStatements(way: Way): Promise<Statement[]> {
  const { filename, user, headers } = takeName();
  const content = takeContent(way.sizes.flat());
  const first = postgres.statements.length;
  const upload = await begin(user, content, way, headers);
  await upload.finish();
  const statements = postgres.statements.slice(first).filter(isAbout(filename));
  return statements;
}

/** Prepares an upload that will stand still at this statement. */
async function aimAt({ number, place }: KillPoint, way: Way): Promise<Target> {
  const { filename, user, headers } = takeName();
  const content = takeContent(way.sizes.flat());
  const matches = isAbout(filename);
  let statements = 0;
  const pause = postgres.pauseAt((statement) => {
    if (!matches(statement)) return false;
    statements++;
    return statements === number;
  }, place);
  return {
    content,
    reached: pause.reached,
    release: pause.cut,
    async upload(gate) {
      const upload = await begin(user, content, way, headers);
      await upload.finish(gate);
      return upload;
    },
  };
}

/** Like UNEVEN, with fewer bytes, because an upload has many more statements than calls to S3. */
const PIECES = [1, 7.5, 0.3, 5, 2.4].map((size) => Math.round(size * MIB));

test.each<[string, Way]>([
  ['16 MiB in uneven pieces', { sizes: PIECES }],
  ['a small file', { sizes: [100_000] }],
  ['16 MiB in uneven pieces with checksums', { sizes: PIECES, checksum: true }],
  ['8 MiB in two pieces by the IETF draft', { sizes: [MIB, 7 * MIB], dialect: IETF }],
  ['a small file in one POST by the IETF draft', { sizes: [100_000], dialect: IETF }],
  ['two partial uploads and the final one', { sizes: [[100_000], [50_000]] }],
  ['a final upload and then its partial upload', { sizes: [[100_000]], finalFirst: true }],
])('killed before and after each statement: %s', async (_, way) => {
  const statements = await listStatements(way);
  expect(statements.length).toBeGreaterThan(3);
  await killAtAll(installation, groupPoints(statements.length, ABREAST), (point) => aimAt(point, way));
});
