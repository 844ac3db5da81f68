import { loadConfig, readEnvironment, requireConnected } from '../config.js';
import { migrate } from '../database/migrate.js';
import { failStart } from '../lifecycle.js';

try {
  const { databaseUrl } = requireConnected(loadConfig(readEnvironment()));
  await migrate(databaseUrl);
} catch (error) {
  failStart(error);
}
