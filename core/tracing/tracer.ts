/*
 * Traces: what one request does, in this process and in the worker that runs its job. Without an address for them there
 * is no tracer, and nothing of OpenTelemetry is loaded; see open.ts.
 */

export type Attributes = Record<string, string | number | undefined>;

/** A piece of work that is under way. Only the first end counts. */
export interface Span {
  end(outcome?: { name?: string; attributes?: Attributes; failure?: unknown }): void;
}

/** The headers of a request that continue the trace of its sender (W3C Trace Context). */
export interface TraceHeaders {
  traceparent?: string | undefined;
  tracestate?: string | undefined;
}

export interface Tracer {
  /** A span of a request; it is the current one of everything that `work` begins. */
  request(headers: TraceHeaders, name: string, work: () => void): Span;
  /** Does `work` in a span of the current one, which becomes the current one. */
  span<T>(name: string, attributes: Attributes, work: () => Promise<T>): Promise<T>;
  /** Does `work` in a span of the trace that `headers` name, or of a new one. */
  job<T>(headers: TraceHeaders, name: string, attributes: Attributes, work: () => Promise<T>): Promise<T>;
  /** A span of the current one, which does not become the current one. */
  begin(name: string, attributes?: Attributes): Span;
  /** By which another process continues the current span; undefined: there is none. */
  current(): string | undefined;
  /** Sends what is left, for a few seconds at most. */
  close(): Promise<void>;
}

/** Does `work` in a span, if there is a tracer. */
export function traced<T>(
  tracer: Tracer | undefined,
  name: string,
  attributes: Attributes,
  work: () => Promise<T>,
): Promise<T> {
  return tracer ? tracer.span(name, attributes, work) : work();
}
