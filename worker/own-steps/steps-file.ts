import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { ConfigError } from '../../core/config-error.js';
import { type CommandStep, commandStep, type ServiceStep, serviceStep } from './definition.js';

/* Reads STEPS_FILE: YAML with one list, `steps`. Errors name the line, the step and the field. */

const stepsFile = z.strictObject({ steps: z.array(z.record(z.string(), z.unknown())) });

export type FileStep = ({ kind: 'command' } & CommandStep) | ({ kind: 'service' } & ServiceStep);

/** A step, and where it stands, for errors. */
export interface Placed<T> {
  step: T;
  place: string;
}

/** @param name of the file, for errors. @throws {ConfigError} */
export function parseStepsFile(text: string, name: string): Placed<FileStep>[] {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [broken] = [...document.errors, ...document.warnings];
  if (broken) throw fault(name, lines.linePos(broken.pos[0]).line, broken.message);

  /** The line of the field at this path, or of the nearest one around it that is there. */
  function lineOf(path: readonly PropertyKey[]): number {
    for (let length = path.length; length > 0; length--) {
      const node = document.getIn(path.slice(0, length), true) as
        | { range?: [number, ...number[]] }
        | undefined;
      if (node?.range) return lines.linePos(node.range[0]).line;
    }
    return 1;
  }

  function check<T>(schema: z.ZodType<T>, value: unknown, around: readonly PropertyKey[], title = ''): T {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    const [issue] = parsed.error.issues;
    const path = issue?.path ?? [];
    const what =
      issue?.code === 'unrecognized_keys' ? `${issue.keys[0]}: is no field of such a step` : issue?.message;
    const key = issue?.code === 'unrecognized_keys' ? [...path, issue.keys[0] ?? ''] : path;
    const field = path.length > 0 ? `${path.join('.')}: ` : '';
    throw fault(name, lineOf([...around, ...key]), `${title}${field}${what}`);
  }

  const { steps } = check(stepsFile, document.toJS() ?? {}, []);
  return steps.map((value, index) => {
    const around = ['steps', index];
    const title = typeof value.name === 'string' ? `step ${value.name}: ` : `step number ${index + 1}: `;
    const isCommand = 'command' in value;
    if (isCommand === 'url' in value) {
      throw fault(name, lineOf(around), `${title}must have either command or url`);
    }
    const step: FileStep = isCommand
      ? { kind: 'command', ...check(commandStep, value, around, title) }
      : { kind: 'service', ...check(serviceStep, value, around, title) };
    return { step, place: `STEPS_FILE=${name}, line ${lineOf(around)}, step ${step.name}` };
  });
}

function fault(name: string, line: number, message: string): ConfigError {
  return new ConfigError(`STEPS_FILE=${name}, line ${line}: ${message}`);
}
