import { readFileSync } from 'node:fs';

/** What a process tells in the text format of Prometheus. */
export interface Scrape {
  text: string;
  /** The names of all metrics, also of those without values, with their types. */
  types: Map<string, string>;
  /** All series, each with its labels as they stand in the text. */
  series: string[];
  /** The sum of all series of this name that have these labels; 0 if there are none. */
  sum(name: string, labels?: Record<string, string>): number;
}

/** Reads the metrics at `<url>/metrics`. */
export async function scrape(url: string, token?: string): Promise<Scrape> {
  const answer = await fetch(`${url}/metrics`, {
    headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
  });
  if (!answer.ok) throw new Error(`metrics: ${answer.status} ${await answer.text()}`);
  return parse(await answer.text());
}

function parse(text: string): Scrape {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const found = lines.map((line) => {
    const [, name = '', labels = '', value = ''] = /^([\w:]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (!name) throw new Error(`not a line of metrics: ${line}`);
    return { name, labels, value: Number(value) };
  });
  const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name, type]);
  return {
    text,
    types: new Map(types as [string, string][]),
    series: found.map(({ name, labels }) => `${name}{${labels}}`),
    sum: (name, labels = {}) =>
      found
        .filter((one) => one.name === name)
        .filter((one) =>
          Object.entries(labels).every(([key, value]) => `,${one.labels}`.includes(`,${key}="${value}"`)),
        )
        .reduce((sum, { value }) => sum + value, 0),
  };
}

/** The names of Landfall's metrics in a text, without the endings of the series of a histogram. */
export function metricsIn(text: string): string[] {
  const names = text.match(/\b(?:landfall|nodejs|process)_\w+/g) ?? [];
  return [...new Set(names.map((name) => name.replace(/_(bucket|sum|count)$/, '')))].sort();
}

export const readText = (path: string) => readFileSync(path, 'utf8');
