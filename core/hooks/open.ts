import { openHookClient } from './client.js';
import { createHooks, type HookDeps, type HooksOf } from './hooks.js';
import { openHookResults } from './results.js';

/** The hooks of a process. */
export interface OpenHooks {
  of: HooksOf;
  /** Ends the questions that are under way: they count as not answered. */
  stop(): void;
  /** Writes the last results. Call it after stop(), when no request waits any more. */
  flush(): Promise<void>;
}

/** Opens the hooks; undefined: none are configured. */
export function openHooks({
  config,
  ...deps
}: Omit<HookDeps, 'client' | 'results' | 'config'> & {
  config: HookDeps['config'] | undefined;
}): OpenHooks | undefined {
  if (!config) return undefined;
  const client = openHookClient(config);
  const results = openHookResults(deps);
  return {
    of: createHooks({ ...deps, config, client, results }),
    stop: client.close,
    flush: results.flush,
  };
}
