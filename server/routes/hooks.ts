import type { DataSource } from 'typeorm';
import type { z } from 'zod';
import type { HookConfig } from '../../core/config-groups.js';
import { listHookResults } from '../../core/hooks/results.js';
import type { HookTrial } from '../../core/hooks/trial.js';
import { hooks as hooksAnswer, hookTrial } from '../answers/hooks.js';
import { type AnyRoute, route } from './route.js';

interface HookRouteDeps {
  database: DataSource;
  hook: HookConfig | undefined;
  hookAuth: boolean;
  /** Undefined: no hook is configured. */
  tryHook?: (() => Promise<HookTrial>) | undefined;
}

const NO_HOOK: HookTrial = { answered: false, accepted: null, durationMs: 0, error: 'HOOK_URL is not set' };

/** The hooks of the installation, for admins. */
export function hookRoutes({ database, hook, hookAuth, tryHook }: HookRouteDeps): AnyRoute[] {
  return [
    route({
      method: 'get',
      path: '/api/admin/hooks',
      access: 'admin',
      limit: 'status',
      summary: 'The configuration of hooks, and how their receiver has answered lately',
      answers: { 200: hooksAnswer },
      async handle(): Promise<z.output<typeof hooksAnswer>> {
        return {
          url: hook ? plainUrl(hook.url) : null,
          events: [...(hook?.events ?? [])],
          absent: hook?.absent ?? 'refuse',
          auth: hookAuth,
          results: await listHookResults(database),
        };
      },
    }),
    route({
      method: 'post',
      path: '/api/admin/hooks/test',
      access: 'admin',
      limit: 'processing',
      summary:
        'Ask the receiver of hooks about an upload that nobody makes (pre-create, with the header Hook-Test)',
      answers: { 200: hookTrial },
      handle: async () => (tryHook ? tryHook() : NO_HOOK),
    }),
  ];
}

/** The address without the parts that may be secret. */
function plainUrl(url: string): string {
  const { origin, pathname } = new URL(url);
  return origin + pathname;
}
