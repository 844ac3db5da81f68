import { encodeMetadata, idOf, registerUser, type TestUser } from './support/client.js';
import { type HookReceiver, startHookReceiver } from './support/hook-receiver.js';
import { type Processes, startProcesses } from './support/processes.js';
import { until } from './support/until.js';

/* Post hooks come from the event log: in the order of each upload, repeated until they are taken, and never lost. */

let receiver: HookReceiver;
let processes: Processes;
let user: TestUser;

const POST = 'post-create,post-finish,post-terminate';

beforeAll(async () => {
  receiver = await startHookReceiver();
  processes = await startProcesses({
    HOOK_URL: receiver.url,
    HOOK_EVENTS: POST,
    WEBHOOK_RETRY_SECONDS: '1,1,1',
  });
  user = await registerUser(() => processes.url);
});
beforeEach(() => receiver.reset());
afterAll(async () => {
  await processes?.close();
  await receiver?.close();
});

const of = (id: string) => receiver.asked.filter(({ event }) => event.Upload.ID === id);
const typesOf = (id: string) => of(id).map(({ type }) => type);

async function createAndDelete(): Promise<string> {
  const path = await user.create(3, { 'Upload-Metadata': encodeMetadata({ filename: 'a.txt' }) });
  await user.tus('PATCH', path, { 'Upload-Offset': '0' }, 'abc');
  await until('the file to be told of', () => typesOf(idOf(path)).includes('post-finish'));
  await user.tus('DELETE', path);
  return idOf(path);
}

test('an upload is told of in the form of tusd, and in order', async () => {
  const id = await createAndDelete();
  await until('the last hook', () => typesOf(id).includes('post-terminate'));
  const [created, finished, terminated] = of(id);
  expect(typesOf(id)).toEqual(POST.split(','));
  const shape = {
    ID: id,
    Size: 3,
    SizeIsDeferred: false,
    IsPartial: false,
    IsFinal: false,
    PartialUploads: null,
  };
  expect(created?.body).toEqual({
    Type: 'post-create',
    Event: {
      Upload: { ...shape, Offset: 0, MetaData: { filename: 'a.txt' }, Storage: null },
      HTTPRequest: {
        Method: '',
        URI: '',
        RemoteAddr: expect.stringContaining('127.0.0.1'),
        Header: { 'User-Agent': ['node'], 'X-Request-Id': [expect.any(String)] },
      },
    },
  });
  expect(created?.headers).toMatchObject({
    'hook-id': `post-create:${id}`,
    'hook-attempt': '1',
    'hook-owner': user.id,
    'content-type': 'application/json',
  });
  expect(finished?.event.Upload).toMatchObject({ ...shape, Offset: 3, MetaData: { filename: 'a.txt' } });
  // The description of an upload goes with it.
  expect(terminated?.event.Upload).toMatchObject({ ...shape, MetaData: {} });
});

test('a final upload names its partial uploads', async () => {
  const partial = await user.create(3, { 'Upload-Concat': 'partial' });
  await user.tus('PATCH', partial, { 'Upload-Offset': '0' }, 'abc');
  const joined = await user.tus('POST', '/uploads', { 'Upload-Concat': `final;${partial}` });
  const id = idOf(joined.headers.get('Location') ?? '');
  await until('the hook', () => typesOf(id).includes('post-finish'));
  expect(of(id).map(({ event }) => event.Upload)).toMatchObject([
    { IsFinal: true, PartialUploads: [idOf(partial)] },
    { IsFinal: true, PartialUploads: [idOf(partial)], Size: 3, Offset: 3 },
  ]);
  await until('the other hook', () => typesOf(idOf(partial)).includes('post-create'));
  expect(of(idOf(partial))[0]?.event.Upload).toMatchObject({ IsPartial: true });
});

test('a receiver that is away, or answers with an error, is told again', async () => {
  receiver.answer = ({ headers }, res) => {
    if (headers['hook-attempt'] === '1') return void res.destroy();
    if (headers['hook-attempt'] === '2') return void res.writeHead(410).end();
    return {};
  };
  const path = await user.create(3);
  const id = idOf(path);
  await until('the third attempt', () => of(id).length === 3);
  expect(of(id).map(({ headers }) => [headers['hook-id'], headers['hook-attempt']])).toEqual([
    [`post-create:${id}`, '1'],
    [`post-create:${id}`, '2'],
    [`post-create:${id}`, '3'],
  ]);
});

test('a worker that is killed in the middle loses nothing, and repeats with the same id', async () => {
  let open = true;
  receiver.answer = async () => {
    await until('the receiver to answer', () => !open);
    return {};
  };
  const path = await user.create(3);
  const id = idOf(path);
  await until('the first attempt', () => of(id).length === 1);
  await processes.kill('worker');
  await user.tus('DELETE', path);
  open = false;
  await processes.start('worker');
  await until('the end to be told of', () => typesOf(id).includes('post-terminate'));
  expect(typesOf(id)).toEqual(['post-create', 'post-create', 'post-terminate']);
  expect(of(id).map(({ headers }) => headers['hook-attempt'])).toEqual(['1', '2', '1']);
});

test('what happens while no worker runs is told later; what happens without hooks is not', async () => {
  await processes.stop('worker');
  const missed = idOf(await user.create(3));
  await processes.start('worker');
  await until('the upload to be told of', () => typesOf(missed).includes('post-create'));
  await processes.stop('worker');
  await processes.start('worker', { HOOK_URL: '' });
  const untold = idOf(await user.create(3));
  await processes.stop('worker');
  await processes.start('worker');
  const told = idOf(await user.create(3));
  await until('the next upload to be told of', () => typesOf(told).includes('post-create'));
  expect(typesOf(untold)).toEqual([]);
});
