import { loadConfig, readEnvironment, requireConnected } from '../config.js';
import { migrate } from './migrate.js';

try {
  const { databaseUrl } = requireConnected(loadConfig(readEnvironment()));
  await migrate(databaseUrl);
} catch (error) {
  console.error(`landfall: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
