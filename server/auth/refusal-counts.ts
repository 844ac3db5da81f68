/*
 * Decides how the refusals of one window of time are written. The first refusals of each network become
 * single events, later ones become counts. So nobody can fill the event log by being refused, and no refusal
 * is missing from it.
 */

/** How many refusals are written singly in a window: for one network, and in total. */
const MAX_OF_NETWORK = 30;
const MAX_SINGLE = 300;

/** How many networks the counts list separately, and how many are tracked during the window. */
const MAX_TOLD = 20;
const MAX_COUNTED = 1000;

/** Number of refusals of each kind. */
type Kinds = Record<string, number>;

/** The counted refusals of one network, or of all networks that are not listed separately. */
interface RefusalCount {
  /** Undefined: several networks. */
  network?: string;
  count: number;
  kinds: Kinds;
}

/** How one refusal is written; `last`: singly, and later ones are counted. */
type HowWritten = 'single' | 'last' | 'counted';

export interface RefusalCounts {
  take(network: string, kind: string): HowWritten;
  /** Returns all counts, the largest first, and begins a new window. */
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
