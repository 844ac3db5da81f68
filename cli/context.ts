import type { Api } from './api.js';
import type { Output } from './output.js';

/** What every command gets. */
export interface Context {
  api: Api;
  output: Output;
  /** Aborted when the user ends the program; its reason is the Failure to end with. */
  signal: AbortSignal;
}
