import { readdirSync, readFileSync } from 'node:fs';

/* All the processes that a program of the operator's has started: its process group. */

/** Sends a signal to every process of a group; no error if none is left. */
export function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch {
    // The group has ended.
  }
}

/** Resident memory of a group in bytes; 0 where the system has no /proc. */
export function memoryOfGroup(group: number): number {
  let kib = 0;
  for (const name of namesIn('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = textOf(`/proc/${name}/stat`);
    // The name of the program, in parentheses, may have spaces.
    const [, , itsGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (Number(itsGroup) !== group) continue;
    kib += Number(/^VmRSS:\s+(\d+) kB/m.exec(textOf(`/proc/${name}/status`))?.[1] ?? 0);
  }
  return kib * 1024;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Empty if the process has ended meanwhile. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
