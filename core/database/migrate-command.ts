import { loadConfig, readEnvironment, requireConnected } from '../config.js';
import { failStart } from '../lifecycle.js';
import { migrate } from './migrate.js';

try {
  const { databaseUrl } = requireConnected(loadConfig(readEnvironment()));
  await migrate(databaseUrl);
} catch (error) {
  failStart(error);
}
