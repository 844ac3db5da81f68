import { isDeepStrictEqual } from 'node:util';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';

/*
 * Checks answers against the declarations of their routes: status, media type, problem codes, and every field of the
 * JSON. It is plain JavaScript, because the servers that tests start load it too; see check-answers.js.
 */

/**
 * Lets no answer out that its route does not declare: such an answer becomes a 500, so that its test fails.
 * @param {any} response the prototype of the application's responses
 * @param {any[]} routes the declared routes
 * @param {(route: any) => string[]} problemsOf returns the problem codes that a route declares
 * @param {(fault: string) => void} report is told of each such answer
 */
export function checkAnswers(response, routes, problemsOf, report = console.error) {
  const { end } = response;
  /** Responses with a fault. They still have to answer 500. */
  const refused = new WeakSet();
  response.end = function (/** @type {any} */ chunk, /** @type {any[]} */ ...rest) {
    const method = this.req.method === 'HEAD' ? 'get' : this.req.method.toLowerCase();
    const route = routes.find((one) => one.method === method && one.path === this.req.route?.path);
    // Express itself answers a GET with `If-None-Match: *` so, whatever the route.
    const isUnchanged = this.statusCode === 304 && this.req.get('If-None-Match') === '*';
    const fault =
      route &&
      !isUnchanged &&
      !refused.has(this) &&
      faultOf(route, problemsOf(route), {
        status: this.statusCode,
        type: String(this.getHeader('content-type') ?? '').split(';')[0],
        body:
          typeof chunk === 'string' || Buffer.isBuffer(chunk)
            ? decode(chunk, this.getHeader('content-encoding'))
            : undefined,
      });
    if (!fault) return end.call(this, chunk, ...rest);
    const message = `${method} ${route.path} answered ${this.statusCode}: ${fault}`;
    report(message);
    refused.add(this);
    // Express answers an error of its error handler with the status that is set.
    this.statusCode = 500;
    throw new Error(message);
  };
}

/** @param {string | Buffer} body @param {string | undefined} coding */
function decode(body, coding) {
  if (coding === 'br') return String(brotliDecompressSync(body));
  return String(coding === 'gzip' ? gunzipSync(body) : body);
}

/**
 * Says in what an answer differs from the declaration; undefined: in nothing.
 * @param {any} route
 * @param {string[]} problems
 * @param {{ status: number; type: string | undefined; body: string | undefined }} answer
 */
function faultOf(route, problems, { status, type, body }) {
  if (type === 'application/problem+json') return faultOfProblem(problems, status, body);
  const declared = route.answers[status];
  if (!declared) return 'this status is not declared';
  if (!('safeDecode' in declared)) return faultOfContent(declared, type, body);
  if (type !== 'application/json') return `${type} is not application/json`;
  if (body === undefined) return undefined;
  const json = JSON.parse(body);
  const read = declared.safeDecode(json);
  if (!read.success) return read.error.message;
  // Reading a value and writing it again loses the fields that are not declared.
  const again = JSON.parse(JSON.stringify(declared.encode(read.data)));
  return isDeepStrictEqual(again, json) ? undefined : `${body} has more than is declared`;
}

/** @param {string[]} problems @param {number} status @param {string | undefined} body */
function faultOfProblem(problems, status, body) {
  if (body === undefined) return undefined;
  const problem = JSON.parse(body);
  if (problem.status !== status) return `the problem says ${problem.status}`;
  return problems.includes(problem.code) ? undefined : `the problem ${problem.code} is not declared`;
}

/** @param {any} declared @param {string | undefined} type @param {string | undefined} body */
function faultOfContent({ mediaType }, type, body) {
  if (mediaType === null) return body ? 'it has content' : undefined;
  return mediaType === '*/*' || mediaType === type ? undefined : `${type} is not ${mediaType}`;
}
