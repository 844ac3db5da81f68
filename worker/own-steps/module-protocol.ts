/* What a worker and the process of a module say to each other. */

/** What a module gets to know about a file. */
export interface ModuleFile {
  id: string;
  filename: string;
  size: number;
  declaredType: string | null;
  detectedType: string | null;
  /** Hex. */
  sha256: string | null;
  /** The facts of the steps before, as the API shows them. */
  metadata: Record<string, unknown>;
}

/** The first message: what to do with the module. */
export type ModuleTask =
  | { do: 'describe' }
  | { do: 'run'; file: ModuleFile; input: string; output: string; temporary: string };

export type ModuleMessage =
  | { described: unknown }
  | { progress: number }
  | { log: string }
  | { result: unknown }
  | { error: string; retry: boolean };
