/** A row of the printed table: text by column. */
export type Row = Record<string, string>;

/** A limit for one of Landfall's figures. */
export interface Aim {
  /** `most`: the figure must not be larger than the limit; `least`: not smaller. */
  at: 'most' | 'least';
  limit: number;
  /** The contender whose figure multiplies the limit; undefined: the limit is absolute. */
  times?: string;
}

export function atMost(limit: number, times?: string): Aim {
  return { at: 'most', limit, ...(times ? { times } : {}) };
}

export function atLeast(limit: number, times?: string): Aim {
  return { at: 'least', limit, ...(times ? { times } : {}) };
}

/** The name of a second column for Landfall: a process that has taken uploads before. */
export const AGAIN = 'landfall again';

/**
 * A row of the table: each contender's figure, Landfall's ratio to the others, and the aim with whether it is met.
 * @param values figures by contender; NaN: not measured
 */
export function row(name: string, values: Record<string, number>, digits = 1, aim?: Aim): Row {
  const { landfall = NaN } = values;
  const others = Object.entries(values).filter(([contender]) => contender !== 'landfall');
  const compared = others.filter(([contender]) => contender !== AGAIN);
  const print = (value: number, places: number) => (Number.isNaN(value) ? '' : value.toFixed(places));
  return {
    figure: name,
    landfall: print(landfall, digits),
    ...Object.fromEntries(others.map(([contender, value]) => [contender, print(value, digits)])),
    ...Object.fromEntries(
      compared.map(([contender, value]) => [`to ${contender}`, print(landfall / value, 2)]),
    ),
    ...(aim ? { aim: judge(values, digits, aim) } : {}),
  };
}

function judge(values: Record<string, number>, digits: number, { at, limit, times }: Aim): string {
  const label = `${at === 'most' ? '≤' : '≥'} ${limit}${times ? ` × ${times}` : ''}`;
  const { landfall = NaN } = values;
  const figure = times ? landfall / (values[times] ?? NaN) : landfall;
  if (Number.isNaN(figure)) return `${label}: not measured`;
  // The printed figure is judged, so that the verdict never contradicts the table.
  const printed = Number(figure.toFixed(times ? 2 : digits));
  return `${label}: ${(at === 'most' ? printed <= limit : printed >= limit) ? 'met' : 'NOT MET'}`;
}
