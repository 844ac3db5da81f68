/** @type {import('jest').Config} */
export default {
  testMatch: ['<rootDir>/test/*.test.ts'],
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: { '^.+\\.ts$': '@swc/jest' },
  testTimeout: 120_000,
  // Suites wait for much of their time, so three of them keep two cores busy.
  maxWorkers: 3,
};
