import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { within } from '../concurrency.js';
import type { Logger } from '../log.js';
import { type NumberedEvent, readOutcomes } from './outcomes.js';

/*
 * The metrics of one server or worker, in the format of Prometheus. The parts of the program call the functions below;
 * a call adds to a number in memory. Labels have few values, which this program chooses: never paths, names or ids.
 * docs/operations.md lists all metrics.
 *
 * Outcomes of uploads, files and steps come from the event log: the process that numbers an event counts it. So each
 * outcome counts once in all processes together, and only after its transaction is committed.
 */

/** The values of gauges that are read together: a number, or numbers by the value of the gauge's label. */
type Readings<Name extends string> = Record<Name, number | Record<string, number>>;

export interface Metrics {
  /** @param route name of the route; @param status of the answer, as a class (`2xx`), or `aborted` */
  requestEnded(labels: { route: string; method: string; status: string }, seconds: number): void;
  /** A request was refused by this rate limit. */
  rateLimited(limit: string): void;
  /** Events have got their numbers. */
  eventsNumbered(events: readonly NumberedEvent[]): void;
  /** A new upload was refused because of what the client asked for. */
  uploadRefused(): void;
  /** Bytes of an upload are on stable storage and in the ledger. */
  bytesStored(bytes: number): void;
  /** A request has begun to send bytes of an upload (1), or has stopped (-1). */
  receiving(change: 1 | -1): void;
  /** The S3 store has answered the sending of a part or of a whole object, or has failed for good. */
  sentToStore(kind: 'part' | 'object', isOk: boolean, seconds: number): void;
  /** An event was sent to a webhook, or to a hook of the operator. `retried`: it failed, and another attempt follows. */
  delivered(kind: 'webhook' | 'hook', outcome: 'delivered' | 'retried' | 'failed', ms: number): void;
  /** A hook was asked or told, with all attempts. @param outcome `answered`, `refused` or `failed` */
  hookAsked(hook: string, outcome: string, seconds: number): void;
  /** An attempt has failed in this step, and another attempt follows. */
  stepRetried(step: string): void;
  /** Stored bytes were read back and compared with their SHA-256. */
  scrubbed(outcome: 'intact' | 'corrupted' | 'unreadable', bytes: number): void;
  /** A stored file was scanned again. */
  rescanned(outcome: 'clean' | 'infected' | 'failed'): void;
  /**
   * Adds gauges whose values are read at each scrape. A gauge that cannot be read, or not in time, is left out of it.
   * @param gauges their help and, if they have one, the name of their label
   */
  observe<Name extends string>(
    gauges: Record<Name, { help: string; label?: string }>,
    read: () => Promise<Readings<Name>> | Readings<Name>,
  ): void;
  /** All metrics as text. Parallel calls share one reading. */
  scrape(): Promise<string>;
  readonly contentType: string;
}

/** How long a scrape waits for the gauges, in milliseconds. Prometheus gives up after 10 s. */
const READ_MS = 4_000;

/** In seconds: from an answer out of memory to the body of a slow upload. */
const REQUEST_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
const CALL_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const STEP_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];

/** Creates the metrics of this process, with those of Node itself (event loop, memory, CPU). */
export function createMetrics(log: Logger): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
    new Counter({ name, help, labelNames, registers });
  const histogram = <Label extends string>(
    name: string,
    help: string,
    labelNames: Label[],
    buckets: number[],
  ) => new Histogram({ name, help, labelNames, buckets, registers });

  const requests = counter('landfall_http_requests_total', 'HTTP requests that have ended', [
    'route',
    'method',
    'status',
  ]);
  const requestSeconds = histogram(
    'landfall_http_request_duration_seconds',
    'Time from the head of a request to the end of its answer',
    ['route', 'method'],
    REQUEST_BUCKETS,
  );
  const limited = counter('landfall_rate_limited_total', 'Requests refused by a rate limit', ['limit']);
  const events = counter('landfall_events_total', 'Events that this process has numbered', [
    'type',
    'result',
  ]);
  const uploads = counter('landfall_uploads_total', 'Uploads that began or ended', ['outcome']);
  const bytes = counter('landfall_upload_bytes_total', 'Bytes of uploads that were stored and acknowledged');
  const receiving = new Gauge({
    name: 'landfall_uploads_receiving',
    help: 'Requests that are sending bytes of uploads',
    registers,
  });
  const sends = histogram(
    'landfall_store_send_duration_seconds',
    'Time to send a part or an object to the S3 store, with all retries',
    ['kind', 'result'],
    CALL_BUCKETS,
  );
  const hooks = histogram(
    'landfall_hook_duration_seconds',
    'Time until the hook had answered, with all attempts',
    ['hook', 'outcome'],
    CALL_BUCKETS,
  );
  const steps = counter('landfall_steps_total', 'Steps of the processing that ended', ['step', 'outcome']);
  const stepSeconds = histogram(
    'landfall_step_duration_seconds',
    'Time that a step took for one file',
    ['step'],
    STEP_BUCKETS,
  );
  const deliveries = counter('landfall_deliveries_total', 'Attempts to deliver an event', [
    'kind',
    'outcome',
  ]);
  const deliverySeconds = histogram(
    'landfall_delivery_duration_seconds',
    'Time of one attempt to deliver an event',
    ['kind'],
    CALL_BUCKETS,
  );
  const rescans = counter('landfall_rescanned_files_total', 'Stored files that were scanned again', [
    'outcome',
  ]);
  const scrubs = counter('landfall_scrubbed_blobs_total', 'Stored contents of files that were read back', [
    'outcome',
  ]);
  const scrubbedBytes = counter('landfall_scrubbed_bytes_total', 'Bytes of these contents');
  const readers: (() => Promise<void>)[] = [];
  let scraping: Promise<string> | undefined;

  async function scrapeAll(): Promise<string> {
    await Promise.all(readers.map((read) => read()));
    return registry.metrics();
  }

  return {
    requestEnded({ route, method, status }, seconds) {
      requests.inc({ route, method, status });
      requestSeconds.observe({ route, method }, seconds);
    },
    rateLimited: (limit) => limited.inc({ limit }),
    eventsNumbered(numbered) {
      for (const event of numbered) {
        events.inc({ type: event.type, result: event.result });
        const { upload, step } = readOutcomes(event);
        if (upload) uploads.inc({ outcome: upload });
        if (!step) continue;
        steps.inc({ step: step.name, outcome: step.outcome });
        if (step.ms !== undefined) stepSeconds.observe({ step: step.name }, step.ms / 1000);
      }
    },
    uploadRefused: () => uploads.inc({ outcome: 'refused' }),
    bytesStored: (count) => bytes.inc(count),
    receiving: (change) => receiving.inc(change),
    sentToStore: (kind, isOk, seconds) => sends.observe({ kind, result: isOk ? 'ok' : 'failed' }, seconds),
    delivered(kind, outcome, ms) {
      deliveries.inc({ kind, outcome });
      deliverySeconds.observe({ kind }, ms / 1000);
    },
    hookAsked: (hook, outcome, seconds) => hooks.observe({ hook, outcome }, seconds),
    stepRetried: (step) => steps.inc({ step, outcome: 'retried' }),
    scrubbed(outcome, count) {
      scrubs.inc({ outcome });
      scrubbedBytes.inc(count);
    },
    rescanned: (outcome) => rescans.inc({ outcome }),
    observe: (gauges, read) => void readers.push(createReader(registry, log, gauges, read)),
    scrape() {
      scraping ??= scrapeAll().finally(() => {
        scraping = undefined;
      });
      return scraping;
    },
    contentType: registry.contentType,
  };
}

/** @returns a function that sets the gauges anew; it never rejects */
function createReader<Name extends string>(
  registry: Registry,
  log: Logger,
  definitions: Record<Name, { help: string; label?: string }>,
  read: () => Promise<Readings<Name>> | Readings<Name>,
): () => Promise<void> {
  const gauges = new Map<Name, Gauge>();
  const labels = new Map<Name, string>();
  for (const name of Object.keys(definitions) as Name[]) {
    const { help, label } = definitions[name];
    gauges.set(name, new Gauge({ name, help, labelNames: label ? [label] : [], registers: [registry] }));
    if (label) labels.set(name, label);
  }
  return async () => {
    const readings = await within(READ_MS, Promise.resolve().then(read), 'metrics').catch(
      (error: unknown) => {
        log.warn({ err: error, metrics: [...gauges.keys()] }, 'metrics could not be read');
        return undefined;
      },
    );
    for (const [name, gauge] of gauges) {
      const label = labels.get(name);
      // Without this, the values of a service that is away would stay.
      if (label) gauge.reset();
      else gauge.remove();
      const value = readings?.[name];
      if (typeof value === 'number') gauge.set(value);
      else if (label) for (const [key, one] of Object.entries(value ?? {})) gauge.set({ [label]: key }, one);
    }
  };
}
