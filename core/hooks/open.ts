import type { HookConfig } from '../config-groups.js';
import { openHookClient } from './client.js';
import { createHooks, type HookDeps, type HooksOf } from './hooks.js';
import { type HookResults, openHookResults } from './results.js';
import { keepHookSubscription } from './subscription.js';
import { type HookTrial, tryHook } from './trial.js';

/** The hooks of a process. */
export interface OpenHooks {
  of: HooksOf;
  config: HookConfig;
  results: HookResults;
  /** See tryHook(). */
  try(): Promise<HookTrial>;
  /** Ends the questions that are under way: they count as not answered. */
  stop(): void;
  /** Writes the last results. Call it after stop(), when no request waits any more. */
  flush(): Promise<void>;
}

/** Opens the hooks; undefined: none are configured. */
export async function openHooks({
  config,
  ...deps
}: Omit<HookDeps, 'client' | 'results' | 'config'> & {
  config: HookDeps['config'] | undefined;
}): Promise<OpenHooks | undefined> {
  await keepHookSubscription(deps.database, config);
  if (!config) return undefined;
  const client = openHookClient(config);
  const results = openHookResults(deps);
  return {
    of: createHooks({ ...deps, config, client, results }),
    config,
    results,
    try: () => tryHook(client),
    stop: client.close,
    flush: results.flush,
  };
}
