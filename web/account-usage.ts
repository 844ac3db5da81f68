import type { UsageJson } from '../server/answers/account.js';
import type { Api } from './api.js';
import { explain } from './api-error.js';
import { byId, setText } from './dom.js';
import { usageTexts } from './usage.js';

/** Shows how much of the quota is in use. */
export async function showUsage(api: Api): Promise<void> {
  const problem = byId('usage-problem', HTMLElement);
  try {
    const me = await api.get<UsageJson>('/api/me');
    const texts = usageTexts(me);
    for (const name of ['bytes', 'files'] as const) {
      setText(byId(`usage-${name}`, HTMLElement), texts[name]);
      const most = me.quota[name];
      const meter = byId(`usage-${name}-meter`, HTMLMeterElement);
      meter.hidden = most === null;
      // A meter needs a range; a quota of zero shows as full.
      meter.max = most || 1;
      meter.high = meter.max * 0.9;
      meter.value = most === 0 ? 1 : me.usage[name];
    }
    const isFree = me.quota.bytes === null && me.quota.files === null;
    setText(byId('usage-quota', HTMLElement), isFree ? 'There is no limit.' : '');
    setText(problem, '');
  } catch (error) {
    setText(problem, explain(error));
  }
}
