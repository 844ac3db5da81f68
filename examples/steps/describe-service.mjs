// An outside service for a step of STEPS_FILE: node describe-service.mjs
//
// It checks the signature of each question (Standard Webhooks), says 202 at once, fetches the content, and answers later at the
// address that came with the question. It stands for a service that needs minutes or a person.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const { DESCRIBE_SECRET = '', PORT = '8090' } = process.env;
const SECRET = Buffer.from(DESCRIBE_SECRET.replace('whsec_', ''), 'base64');

/** How old a question may be, in seconds: an older one is a repetition by somebody else. */
const TOLERANCE = 300;

function isSigned(headers, body) {
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures = '' } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) < TOLERANCE)) return false;
  const expected = createHmac('sha256', SECRET).update(`${id}.${timestamp}.${body}`).digest();
  return signatures.split(' ').some((one) => {
    const signature = Buffer.from(one.replace(/^v1,/, ''), 'base64');
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

/** The work that takes long: here it counts words. */
async function describe({ file, content }) {
  const answer = await fetch(content);
  if (!answer.ok) throw new Error(`the content: ${answer.status}`);
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (createHash('sha256').update(bytes).digest('hex') !== file.sha256)
    throw new Error('the content is another one');
  const words = bytes.toString().split(/\s+/).filter(Boolean);
  const summary = Buffer.from(words.slice(0, 10).join(' '));
  return {
    facts: { words: words.length },
    derived: [{ name: 'summary', contentType: 'text/plain', base64: summary.toString('base64') }],
  };
}

async function work(question) {
  const answer = await describe(question).catch((error) => ({ outcome: 'retry', reason: error.message }));
  const { status } = await fetch(question.callback, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(answer),
  });
  // 409: the file does not wait any more, for example because it was deleted.
  console.log(`${question.file.filename}: answered, and got ${status}`);
}

const server = createServer(async (req, res) => {
  let body = '';
  for await (const chunk of req.setEncoding('utf8')) body += chunk;
  if (!isSigned(req.headers, body)) {
    res.writeHead(401).end();
    return;
  }
  // Keep the question where a crash does not lose it, if it matters: otherwise Landfall asks again at the deadline.
  res.writeHead(202).end();
  work(JSON.parse(body)).catch((error) => console.error(error));
});
server.listen(Number(PORT), '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
