/* What an event says about the outcome of an upload or of a step of the processing. */

type UploadOutcome = 'created' | 'completed' | 'failed' | 'expired' | 'terminated' | 'refused';

interface Outcomes {
  upload?: UploadOutcome;
  /** `ms` is absent where it is not known. */
  step?: { name: string; outcome: string; ms?: number };
}

/** By the type of the event. */
const READERS: Record<string, (data: Data) => Outcomes> = {
  'upload.created': () => ({ upload: 'created' }),
  'file.created': () => ({ upload: 'completed' }),
  // With a reason: the storage has lost its bytes, or one of its partial uploads has ended.
  'upload.expired': ({ reason }) => ({ upload: reason ? 'failed' : 'expired' }),
  // With a reason: it was refused after its last byte, mostly by a hook.
  'upload.terminated': ({ reason }) => ({ upload: reason ? 'refused' : 'terminated' }),
  'file.step': ({ step, state = '', ms }) =>
    step ? { step: { name: step, outcome: state, ...(ms === undefined ? {} : { ms }) } } : {},
  'file.failed': ({ error }) => (error?.step ? { step: { name: error.step, outcome: 'failed' } } : {}),
};

/** The data of these events; see core/events/types.ts. */
interface Data {
  reason?: string;
  step?: string;
  state?: string;
  ms?: number;
  error?: { step?: string };
}

/** An event that has its number. */
export interface NumberedEvent {
  type: string;
  /** `ok` or `refused`. */
  result: string;
  /** JSON. */
  data: string;
}

export function readOutcomes({ type, result, data }: NumberedEvent): Outcomes {
  const read = READERS[type];
  return read && result === 'ok' ? read(JSON.parse(data)) : {};
}
