export interface ProcessingJob {
  fileId: string;
  run: number;
  /**
   * 0 or absent: in the order of arrival, before all jobs that have a priority. These follow in the order of their
   * numbers, the lowest first.
   */
  priority?: number;
  /** Bytes of the file; absent in jobs of earlier versions. */
  size?: number;
  /** Id of the request that caused the job, for the logs. */
  requestId?: string | undefined;
  /** By which the job continues the trace of that request. */
  traceparent?: string | undefined;
}

/** A job's id in the queue. */
export function jobId({ fileId, run }: Pick<ProcessingJob, 'fileId' | 'run'>): string {
  return `${fileId}-${run}`;
}
