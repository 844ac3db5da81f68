/**
 * The environment by which a process of ours reports which code it ran, when ../coverage.js runs the suites; otherwise
 * empty. Node writes the report when the process ends by itself.
 */
export const coverageEnv: Record<string, string> = process.env.TEST_COVERAGE
  ? { NODE_V8_COVERAGE: process.env.TEST_COVERAGE }
  : {};
