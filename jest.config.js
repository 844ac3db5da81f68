/** @type {import('jest').Config} */
export default {
  testMatch: ['<rootDir>/test/*.test.ts'],
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': '@swc/jest' },
  // Longer than several waits of until() on a busy machine, so that one of them says what did not come.
  testTimeout: 300_000,
  // The packages as build.js has bundled them: a suite loads them in half the time.
  moduleDirectories: ['dist/node_modules', 'node_modules'],
  // Suites wait for about half of their time, so six of them keep two cores busy.
  maxWorkers: 6,
  testSequencer: '<rootDir>/test/sequencer.js',
};
