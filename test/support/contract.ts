import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

/*
 * Holds answers against the OpenAPI document that a server publishes. It knows nothing else of the server: clients have
 * only the document.
 */

export interface Operation {
  security: Record<string, string[]>[];
  parameters: { name: string; in: string; required: boolean }[];
  requestBody?: { content: Record<string, { schema?: object }> };
  responses: Record<string, { content?: Record<string, { schema?: object }> }>;
}

export interface Contract {
  /** By `GET /api/files/{id}`. */
  operations: ReadonlyMap<string, Operation>;
  /** Says in what an answer contradicts the document; undefined: in nothing. Reads the body, or cancels it. */
  faultOf(name: string, answer: Response): Promise<string | undefined>;
}

/** Reads the document of the server at `url`. */
export async function readContract(url: string): Promise<Contract> {
  const document = await (await fetch(`${url}/openapi.json`)).json();
  // The document is no schema itself, and a schema in it may have keywords of OpenAPI.
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats.default(ajv);
  ajv.addSchema(document, 'openapi.json');
  const operations = new Map<string, Operation>();
  for (const [path, methods] of Object.entries<Record<string, Operation>>(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      operations.set(`${method.toUpperCase()} ${path}`, operation);
    }
  }

  /** The schema at this place of the document. */
  function validatorAt(...places: string[]): ValidateFunction {
    const pointer = places.map((one) => encodeURIComponent(one.replaceAll('~', '~0').replaceAll('/', '~1')));
    return ajv.compile({ $ref: `openapi.json#/${pointer.join('/')}` });
  }

  return {
    operations,
    async faultOf(name, answer) {
      const [method = '', path = ''] = name.split(' ');
      const response = operations.get(name)?.responses[answer.status];
      const type = answer.headers.get('Content-Type')?.split(';')[0];
      const endless = type === 'text/event-stream';
      const body = endless ? answer.body?.cancel() && 'events' : await answer.text();
      if (!response) return `${answer.status} is not described: ${body}`;
      if (!response.content) return body ? `${answer.status} has a body` : undefined;
      const types = Object.keys(response.content);
      const described = types.find((one) => one === type || one === '*/*');
      if (!described) return `${answer.status} is ${type}, not ${types}`;
      if (!response.content[described]?.schema) return undefined;
      const place = ['responses', String(answer.status), 'content', described, 'schema'];
      const validate = validatorAt('paths', path, method.toLowerCase(), ...place);
      if (validate(JSON.parse(body ?? ''))) return undefined;
      return `${answer.status}: ${ajv.errorsText(validate.errors)}: ${body}`;
    },
  };
}
