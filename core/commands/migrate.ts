import { loadConfig, readEnvironment, requireConnected } from '../config.js';
import { migrate } from '../database/migrate.js';
import { failStart } from '../lifecycle.js';
import { migrateQueue } from '../queue/queue.js';

try {
  const { databaseUrl } = requireConnected(loadConfig(readEnvironment()));
  await migrate(databaseUrl, [migrateQueue]);
} catch (error) {
  failStart(error);
}
