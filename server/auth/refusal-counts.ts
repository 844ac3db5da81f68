/*
 * How refusals of one window of time are written: the first ones of each network one by one, what follows as counts, so
 * that nobody can fill the event log by being refused, and nothing that happened is missing there.
 */

/** Refusals that are written one by one in a window: of one network, and in all. */
const MAX_OF_NETWORK = 30;
const MAX_SINGLE = 300;

/** Networks whose refusals are told apart in the counts, and how many there are while the window lasts. */
const MAX_TOLD = 20;
const MAX_COUNTED = 1000;

/** How many there were of each kind. */
type Kinds = Record<string, number>;

/** What was counted of one network, or of all that are not told apart. */
interface RefusalCount {
  /** Undefined: of several. */
  network?: string;
  count: number;
  kinds: Kinds;
}

/** How one refusal is to be written; `last`: by itself, and those that follow are counted. */
type HowWritten = 'single' | 'last' | 'counted';

export interface RefusalCounts {
  take(network: string, kind: string): HowWritten;
  /** All that was counted, the largest first. A new window begins. */
  drain(): RefusalCount[];
}

export function createRefusalCounts(): RefusalCounts {
  let singles = 0;
  let ofNetwork = new Map<string, number>();
  let counted = new Map<string, RefusalCount>();
  let others: RefusalCount = { count: 0, kinds: {} };

  function count(network: string, kind: string): void {
    const known = counted.get(network);
    if (known) add(known, { [kind]: 1 });
    else if (counted.size < MAX_COUNTED) counted.set(network, { network, count: 1, kinds: { [kind]: 1 } });
    else add(others, { [kind]: 1 });
  }

  return {
    take(network, kind) {
      const before = ofNetwork.get(network) ?? 0;
      if (singles >= MAX_SINGLE || before >= MAX_OF_NETWORK) {
        count(network, kind);
        return 'counted';
      }
      singles++;
      ofNetwork.set(network, before + 1);
      return singles === MAX_SINGLE || before + 1 === MAX_OF_NETWORK ? 'last' : 'single';
    },
    drain() {
      const all = [...counted.values()].sort((a, b) => b.count - a.count);
      const rest = others;
      for (const { kinds } of all.splice(MAX_TOLD)) add(rest, kinds);
      singles = 0;
      ofNetwork = new Map();
      counted = new Map();
      others = { count: 0, kinds: {} };
      return rest.count > 0 ? [...all, rest] : all;
    },
  };
}

function add(to: RefusalCount, kinds: Kinds): void {
  for (const [kind, more] of Object.entries(kinds)) {
    to.count += more;
    to.kinds[kind] = (to.kinds[kind] ?? 0) + more;
  }
}
