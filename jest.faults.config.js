import base from './jest.config.js';

/**
 * Long suites in which things go wrong: kills, outages, connections that are cut. `npm run test:faults`
 * @type {import('jest').Config}
 */
export default {
  ...base,
  testMatch: ['<rootDir>/test/faults/*.test.ts'],
  maxWorkers: 2,
};
