import 'reflect-metadata';
import { DataSource } from 'typeorm';
import { Initial1763640000000 } from '../../migrations/1763640000000-initial.js';
import { S31763650000000 } from '../../migrations/1763650000000-s3.js';
import { People1763700000000 } from '../../migrations/1763700000000-people.js';
import { Forget1763710000000 } from '../../migrations/1763710000000-forget.js';
import { CountedAttempts1763800000001 } from '../../migrations/1763800000001-counted-attempts.js';
import { refuseStillborn } from './connect.js';
import { ApiKey } from './entities/api-key.js';
import { Blob } from './entities/blob.js';
import { Derivative } from './entities/derivative.js';
import { Event } from './entities/event.js';
import { File } from './entities/file.js';
import { Invitation } from './entities/invitation.js';
import { Session } from './entities/session.js';
import { Upload } from './entities/upload.js';
import { UploadToken } from './entities/upload-token.js';
import { User } from './entities/user.js';

/**
 * A process that stands still in the middle of a transaction holds row locks that whoever takes over waits for:
 * PostgreSQL then ends that connection.
 */
const STALLED_TRANSACTION_MS = 15_000;

/**
 * Opens the database.
 * @param name shown in pg_stat_activity
 * @param onError called for an idle connection that broke; the pool replaces it by itself
 */
export async function openDatabase(
  url: string,
  name: string,
  onError: (error: Error) => void = () => {},
): Promise<DataSource> {
  const database = new DataSource({
    type: 'postgres',
    url,
    applicationName: name,
    poolSize: 10,
    poolErrorHandler: onError,
    connectTimeoutMS: 10_000,
    extra: { idle_in_transaction_session_timeout: STALLED_TRANSACTION_MS, onConnect: refuseStillborn },
    entities: [ApiKey, Blob, Derivative, Event, File, Invitation, Session, Upload, UploadToken, User],
    migrations: [
      Initial1763640000000,
      S31763650000000,
      People1763700000000,
      Forget1763710000000,
      CountedAttempts1763800000001,
    ],
  });
  return database.initialize();
}
