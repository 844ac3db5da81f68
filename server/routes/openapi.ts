import { STATUS_CODES } from 'node:http';
import { z } from 'zod';
import { AppError } from '../../core/errors.js';
import { problem } from '../answers/shapes.js';
import { type AnswerCoding, chooseCoding, compress } from '../http/answer-coding.js';
import { IDEMPOTENCY_KEY, MAX_KEY_LENGTH, REPLAYED } from '../idempotency/once.js';
import { STRING_CHARACTER } from '../ietf/fields.js';
import { type Answers, isJson, problemsOf } from './answers.js';
import { type AnyRoute, route } from './route.js';

/*
 * The OpenAPI document. It derives from the routes' declarations, so it cannot differ from what they check.
 */

type Json = Record<string, unknown>;

const PROBLEM_TYPE = 'application/problem+json';

/** The version of the interface, not that of the program. */
const VERSION = '1';

const DESCRIPTION = [
  'Uploads that can be resumed go to /uploads by the tus protocol 1.0.0 (https://tus.io), which is not described here.',
  'Errors are problem documents (RFC 9457) with a stable `code`. Clients must accept fields that they do not know.',
  'The name beside each security scheme is the action that the caller must be allowed to do; API keys have the scopes',
  'upload, read and manage. `x-rate-limit` names the limits that a request counts against.',
].join('\n');

/** Serves the description of all routes, its own included. */
export function openApiRoute(others: readonly AnyRoute[]): AnyRoute {
  const made = new Map<AnswerCoding | undefined, Promise<string | Buffer>>();
  async function make(coding: AnswerCoding | undefined): Promise<string | Buffer> {
    const text = JSON.stringify(describeApi([...others, own]));
    return coding ? compress(text, coding) : text;
  }
  const own: AnyRoute = route({
    method: 'get',
    path: '/openapi.json',
    access: 'public',
    summary: 'The description of this interface (OpenAPI 3.1)',
    answers: { 200: { mediaType: 'application/json' } },
    async handle({ req, res }) {
      const coding = chooseCoding(req, res);
      // Made once in each coding: anybody may ask for it, as often as they like.
      const body = made.get(coding) ?? make(coding);
      made.set(coding, body);
      res.type('json');
      if (coding) res.setHeader('Content-Encoding', coding);
      res.send(await body);
    },
  });
  return own;
}

/** Describes routes as an OpenAPI 3.1 document, which can be written as JSON. */
export function describeApi(routes: readonly AnyRoute[]): Json {
  const schemas = createSchemas();
  const problemSchema = schemas.toJson(problem);
  const paths: Record<string, Json> = {};
  for (const declared of routes) {
    const path = declared.path.replaceAll(/:(\w+)/g, '{$1}');
    paths[path] = { ...paths[path], [declared.method]: describeRoute(declared, problemSchema, schemas) };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Landfall', version: VERSION, description: DESCRIPTION },
    paths,
    components: {
      schemas: schemas.named,
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description: 'An access token, an API key or, for uploads, an upload token',
        },
        link: {
          type: 'apiKey',
          in: 'query',
          name: 'token',
          description: 'Part of a signed address, good for this one path and for a short time',
        },
      },
    },
  };
}

const KEY_PARAMETER: Json = {
  name: IDEMPOTENCY_KEY,
  in: 'header',
  required: false,
  description:
    'A string in quotes (RFC 9651), new for each request. A repetition with the same key and body gets the answer of the ' +
    `first request for 24 hours, with ${REPLAYED}: true.`,
  schema: { type: 'string', pattern: `^"${STRING_CHARACTER}+"$`, maxLength: 2 * MAX_KEY_LENGTH + 2 },
};

interface Schemas {
  /** The JSON Schema of what clients send or read. */
  toJson(schema: z.ZodType): Json;
  /** The schemas with an id that were met so far. */
  named: Record<string, unknown>;
}

function createSchemas(): Schemas {
  const named: Record<string, unknown> = {};
  return {
    named,
    toJson(schema) {
      const { $schema: _, $defs, ...json } = moveReferences(z.toJSONSchema(schema, { io: 'input' }));
      Object.assign(named, $defs);
      return json;
    },
  };
}

/** Zod gathers named schemas in `$defs`, OpenAPI in its components. */
function moveReferences(value: object): Json {
  return JSON.parse(JSON.stringify(value).replaceAll('"#/$defs/', '"#/components/schemas/'));
}

function describeRoute(declared: AnyRoute, problemSchema: Json, schemas: Schemas): Json {
  const { access, link, limit, keyed, summary, params, query, headers, body, accepts, answers } = declared;
  const content = body
    ? { 'application/json': { schema: schemas.toJson(body) } }
    : accepts && Object.fromEntries(accepts.map((type) => [type, {}]));
  const limits = [limit ?? []].flat().flatMap((one) => (typeof one === 'object' ? one.either : one));
  return {
    tags: [tagOf(declared.path)],
    summary,
    security: access === 'public' ? [] : [{ bearer: [access] }, ...(link ? [{ link: [access] }] : [])],
    parameters: [
      ...(params ? parametersOf(schemas.toJson(params), 'path') : []),
      ...(query ? parametersOf(schemas.toJson(query), 'query') : []),
      ...(headers ? parametersOf(schemas.toJson(headers), 'header') : []),
      ...(keyed ? [KEY_PARAMETER] : []),
    ],
    ...(content && { requestBody: { required: isBodyRequired(declared), content } }),
    responses: describeResponses(
      describeAnswers(answers, schemas),
      describeProblems(declared, problemSchema),
    ),
    ...(limits.length > 0 && { 'x-rate-limit': limits }),
  };
}

/** A request without a body counts as one with `{}`; routes that read the body themselves accept an empty one. */
const isBodyRequired = ({ body }: AnyRoute): boolean => body?.safeParse({}).success === false;

/** The resource, by which readers find operations in groups: `files` for /api/files/:id. */
function tagOf(path: string): string {
  return /^\/(?:api\/)?([\w-]+)/.exec(path)?.[1] ?? path;
}

/** @param schema that of an object, whose fields are the parameters */
function parametersOf(schema: Json, place: 'path' | 'query' | 'header'): Json[] {
  const { properties = {}, required = [] } = schema as { properties?: Json; required?: string[] };
  return Object.entries(properties).map(([name, one]) => ({
    name,
    in: place,
    required: required.includes(name),
    schema: one,
  }));
}

type Responses = Record<string, { description: string; content?: Json }>;

function describeAnswers(answers: Answers, schemas: Schemas): Responses {
  const described = Object.entries(answers).map(([status, answer]) => {
    const [type, media] = isJson(answer)
      ? ['application/json', { schema: schemas.toJson(answer) }]
      : [answer.mediaType, {}];
    const description = STATUS_CODES[status] ?? status;
    return [status, { description, ...(type !== null && { content: { [type]: media } }) }];
  });
  return Object.fromEntries(described);
}

/** One response for each status, which may be an answer as well as a problem. */
function describeResponses(answers: Responses, problems: Responses): Responses {
  const both = Object.keys(answers).filter((status) => problems[status]);
  const merged = both.map((status) => [
    status,
    { ...problems[status], content: { ...answers[status]?.content, ...problems[status]?.content } },
  ]);
  return { ...answers, ...problems, ...Object.fromEntries(merged) };
}

/** One response for each status. Its description names the codes. */
function describeProblems(declared: AnyRoute, schema: Json): Responses {
  const errors = problemsOf(declared).map((code) => new AppError(code));
  const described = [...new Set(errors.map(({ status }) => status))].map((status) => [
    status,
    {
      description: errors
        .filter((error) => error.status === status)
        .map(({ code, title }) => `\`${code}\`: ${title}`)
        .join('; '),
      content: { [PROBLEM_TYPE]: { schema } },
    },
  ]);
  return Object.fromEntries(described);
}
