import { AsyncLocalStorage } from 'node:async_hooks';
import {
  type Context,
  defaultTextMapGetter,
  defaultTextMapSetter,
  type Span as OtelSpan,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import { ExportResultCode, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base';
import { within } from '../concurrency.js';
import { AppError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Span, TraceHeaders, Tracer } from './tracer.js';

/* The tracer, on OpenTelemetry. The only file that imports its packages. */

/** Spans that wait to be sent. When the receiver is away or too slow, further ones are dropped. */
const MAX_WAITING = 2_048;

const SEND_EVERY_MS = 1_000;

/** How long sending a batch may take, with repetitions. */
const SEND_MS = 5_000;

/** How long the end of a process waits for the last spans. */
const CLOSE_MS = 1_500;

interface TracingOptions {
  /** Address of the receiver (OTLP over HTTP), without the path for traces. */
  endpoint: string;
  /** `server` or `worker`. */
  part: string;
  log: Logger;
}

/** Opens the tracer of this process. It sends in the background; nothing waits for the receiver. */
export function openTracing({ endpoint, part, log }: TracingOptions): Tracer {
  const exporter = new OTLPTraceExporter({ url: `${endpoint}/v1/traces`, timeoutMillis: SEND_MS });
  const processor = new BatchSpanProcessor(logOutages(exporter, log), {
    maxQueueSize: MAX_WAITING,
    scheduledDelayMillis: SEND_EVERY_MS,
    exportTimeoutMillis: SEND_MS,
  });
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'landfall', 'service.instance.role': part }),
    spanProcessors: [processor],
  });
  const otel = provider.getTracer('landfall');
  const propagator = new W3CTraceContextPropagator();
  const contexts = new AsyncLocalStorage<Context>();
  const present = () => contexts.getStore() ?? ROOT_CONTEXT;
  const extract = ({ traceparent, tracestate }: TraceHeaders) =>
    propagator.extract(ROOT_CONTEXT, { traceparent, tracestate }, defaultTextMapGetter);

  async function workIn<T>(span: OtelSpan, parent: Context, work: () => Promise<T>): Promise<T> {
    const { end } = endOnce(span);
    try {
      const done = await contexts.run(trace.setSpan(parent, span), work);
      end();
      return done;
    } catch (failure) {
      end({ failure });
      throw failure;
    }
  }

  return {
    request(headers, name, work) {
      const parent = extract(headers);
      const span = otel.startSpan(name, { kind: SpanKind.SERVER }, parent);
      contexts.run(trace.setSpan(parent, span), work);
      return endOnce(span);
    },
    span(name, attributes, work) {
      const parent = present();
      return workIn(otel.startSpan(name, { attributes }, parent), parent, work);
    },
    job(headers, name, attributes, work) {
      const parent = extract(headers);
      return workIn(otel.startSpan(name, { kind: SpanKind.CONSUMER, attributes }, parent), parent, work);
    },
    begin: (name, attributes = {}) => endOnce(otel.startSpan(name, { attributes }, present())),
    current() {
      const carrier: TraceHeaders = {};
      propagator.inject(present(), carrier, defaultTextMapSetter);
      return carrier.traceparent;
    },
    async close() {
      await within(CLOSE_MS, provider.shutdown(), 'sending the last spans').catch((error: unknown) =>
        log.debug({ err: error }, 'traces'),
      );
    },
  };
}

function endOnce(span: OtelSpan): Span {
  return {
    end({ name, attributes, failure } = {}) {
      if (!span.isRecording()) return;
      if (name) span.updateName(name);
      if (attributes) span.setAttributes(attributes);
      // Not the message, which may hold a name of a file or an address.
      if (failure) span.setStatus({ code: SpanStatusCode.ERROR, message: nameOf(failure) });
      span.end();
    },
  };
}

function nameOf(failure: unknown): string {
  if (failure instanceof AppError) return failure.code;
  return failure instanceof Error ? failure.name : 'error';
}

/** Logs when spans begin to be lost, and when they arrive again; not each batch. */
function logOutages(exporter: OTLPTraceExporter, log: Logger): SpanExporter {
  let isAway = false;
  return {
    export(spans, done) {
      exporter.export(spans, (result) => {
        const failed = result.code !== ExportResultCode.SUCCESS;
        if (failed && !isAway) log.warn({ err: result.error }, 'traces are lost: the receiver takes none');
        if (!failed && isAway) log.info('traces are sent again');
        isAway = failed;
        done(result);
      });
    },
    shutdown: () => exporter.shutdown(),
    forceFlush: () => exporter.forceFlush(),
  };
}
