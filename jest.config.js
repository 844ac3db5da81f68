/** @type {import('jest').Config} */
export default {
  testMatch: ['<rootDir>/test/*.test.ts'],
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': '@swc/jest' },
  testTimeout: 120_000,
  // The packages as build.js has bundled them: a suite loads them in half the time.
  moduleDirectories: ['dist/node_modules', 'node_modules'],
  // Suites wait for about half of their time, so six of them keep two cores busy.
  maxWorkers: 6,
  testSequencer: '<rootDir>/test/sequencer.js',
};
