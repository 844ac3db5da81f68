import { type AppDeps, declareRoutes } from '../server/app.js';
import { isJson, problemsOf } from '../server/routes/answers.js';
import { describeApi } from '../server/routes/openapi.js';

/*
 * The OpenAPI document describes each declared route. matrix.test.ts asks a server for it.
 */

interface Operation {
  tags: string[];
  summary: string;
  security: Record<string, string[]>[];
  parameters: { name: string; in: string; required: boolean; schema: { pattern?: string } }[];
  requestBody?: { required: boolean; content: Record<string, object> };
  responses: Record<string, { description: string; content?: Record<string, { schema?: object }> }>;
  'x-rate-limit'?: string[];
}

interface Document {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object>; securitySchemes: Record<string, object> };
}

// Declaring uses no dependency: a route uses them when it is called.
const routes = declareRoutes({} as AppDeps);
let document: Document;

beforeAll(() => {
  document = JSON.parse(JSON.stringify(describeApi(routes)));
});

function operationOf(method: string, path: string): Operation {
  const operation = document.paths[path]?.[method];
  if (!operation) throw new Error(`${method} ${path} is not described`);
  return operation;
}

/** All `$ref` below a value. */
function referencesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, one]) =>
    name === '$ref' ? [String(one)] : referencesIn(one),
  );
}

test('it has each declared route, and no other', () => {
  expect(document.openapi).toBe('3.1.0');
  const described = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method} ${path}`),
  );
  const declared = routes.map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`);
  expect(described.sort()).toEqual(declared.sort());
});

test.each(routes.map((route) => [`${route.method} ${route.path}`, route] as const))('%s', (_name, route) => {
  const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
  const { summary, security, parameters, requestBody, responses } = operationOf(route.method, path);
  expect(summary).toBe(route.summary);
  expect(security.flatMap(({ bearer = [] }) => bearer)).toEqual(
    route.access === 'public' ? [] : [route.access],
  );
  expect(security.some(({ link }) => link !== undefined)).toBe(route.link !== undefined);
  // "Each template expression in the path MUST correspond to a path parameter" (OpenAPI 3.1, 4.8.8).
  const inPath = parameters.filter((one) => one.in === 'path');
  expect(inPath.map(({ name }) => `{${name}}`)).toEqual(path.match(/\{\w+\}/g) ?? []);
  expect(inPath.every(({ required }) => required)).toBe(true);
  expect(requestBody !== undefined).toBe(route.body !== undefined || route.accepts !== undefined);
  for (const [status, answer] of Object.entries(route.answers)) {
    const json = responses[status]?.content?.['application/json'];
    expect(json?.schema !== undefined).toBe(isJson(answer as never));
  }
  const problems = Object.values(responses).filter(({ content }) => content?.['application/problem+json']);
  const codes = problems.flatMap(({ description }) => [...description.matchAll(/`(\w+)`/g)]);
  expect(codes.map(([, code]) => code).sort()).toEqual(problemsOf(route).sort());
});

/** They are given a password, or they change nothing. */
const WITHOUT_KEY = [
  'post /api/me/password',
  'post /api/processing/settings/validate',
  'post /api/events/link',
  'post /api/admin/hooks/test',
];

test('routes that create or change something by a JSON POST take a key, without those that get a password', () => {
  const keyed = routes.filter(({ keyed }) => keyed).map(({ method, path }) => `${method} ${path}`);
  const posts = routes
    .filter(({ method, accepts, path }) => method === 'post' && !accepts && !path.startsWith('/api/auth/'))
    .map(({ method, path }) => `${method} ${path}`)
    .filter((name) => !WITHOUT_KEY.includes(name));
  expect(keyed).toEqual(posts);
  for (const route of routes) {
    const { parameters, responses } = operationOf(route.method, route.path.replaceAll(/:(\w+)/g, '{$1}'));
    const inHeader = parameters.filter((one) => one.in === 'header').map(({ name }) => name);
    expect(inHeader.includes('Idempotency-Key')).toBe(route.keyed === true);
    if (!route.keyed) continue;
    expect(responses[409]?.description).toMatch(/`key_in_use`.*`outcome_unknown`/);
    expect(responses[422]?.description).toMatch(/`key_reused`/);
  }
});

test('a handler’s value has one form', () => {
  for (const { answers } of routes) {
    // Unless the handler chooses the status of the same value.
    const json = new Set(Object.values(answers).filter((answer) => isJson(answer as never)));
    expect(json.size).toBeLessThanOrEqual(1);
  }
});

test('every reference leads to a schema', () => {
  const references = referencesIn(document);
  expect(references).toContain('#/components/schemas/File');
  for (const reference of references) {
    expect(reference).toMatch(/^#\/components\/schemas\/\w+$/);
    expect(document.components.schemas).toHaveProperty(reference.split('/').at(-1) ?? '');
  }
});

test('a file is described as it is sent, and clients must expect further fields', () => {
  expect(document.components.schemas.File).toMatchObject({
    type: 'object',
    properties: {
      id: { type: 'string', format: 'uuid' },
      size: { type: 'integer' },
      createdAt: { type: 'string', format: 'date-time' },
      status: { $ref: '#/components/schemas/FileStatus' },
    },
    required: expect.arrayContaining(['id', 'sha256', 'completedAt', 'links']),
  });
  expect(document.components.schemas.File).not.toHaveProperty('additionalProperties');
});

test('headers that are part of the interface are described', () => {
  const { parameters } = operationOf('get', '/api/events');
  const inHeader = parameters.filter((one) => one.in === 'header');
  expect(inHeader).toMatchObject([{ name: 'last-event-id', required: false, schema: { type: 'string' } }]);
});

test('a body is required where the route refuses an empty one', () => {
  const isRequired = (method: string, path: string) => operationOf(method, path).requestBody?.required;
  expect(isRequired('post', '/api/auth/login')).toBe(true);
  expect(isRequired('patch', '/api/files/{id}')).toBe(true);
  expect(isRequired('post', '/api/upload-tokens')).toBe(false);
  expect(isRequired('post', '/api/files/{id}/process')).toBe(false);
});

test('rules for single values are described', () => {
  const schemaOf = (method: string, path: string, name: string) =>
    operationOf(method, path).parameters.find((one) => one.name === name)?.schema;
  const matching = (schema: { pattern?: string } | undefined, texts: string[]) =>
    texts.filter((text) => new RegExp(schema?.pattern ?? '', 'u').test(text));
  const types = ['image/png', 'text/plain; charset=utf-8'];
  const type = schemaOf('get', '/api/processing/estimate', 'type');
  expect(matching(type, [...types, '', 'png', 'image/'])).toEqual(types);
  const keys = ['"a key"', '"a \\" in it"', '"\\\\"'];
  const key = schemaOf('post', '/api/keys', 'Idempotency-Key');
  expect(matching(key, [...keys, '', 'a key', '""', '"é"', '"a"b"', '"\\a"'])).toEqual(keys);
});

test('a change without a field is described as wrong', () => {
  const body = operationOf('patch', '/api/admin/users/{id}').requestBody?.content['application/json'];
  expect(body).toMatchObject({ schema: { minProperties: 1 } });
});

test('operations are grouped by their resource', () => {
  const tagOf = (method: string, path: string) => operationOf(method, path).tags;
  expect(tagOf('get', '/api/files/{id}/thumbnails/{size}')).toEqual(['files']);
  expect(tagOf('get', '/api/upload-tokens')).toEqual(['upload-tokens']);
  expect(tagOf('get', '/health/live')).toEqual(['health']);
  expect(tagOf('get', '/openapi.json')).toEqual(['openapi']);
});

test('the limits are named, also where the request decides', () => {
  expect(operationOf('get', '/api/files')['x-rate-limit']).toEqual(['status']);
  expect(operationOf('post', '/api/uploads/presign')['x-rate-limit']).toEqual(['uploads', 'processing']);
  expect(operationOf('get', '/health/live')['x-rate-limit']).toBeUndefined();
});
