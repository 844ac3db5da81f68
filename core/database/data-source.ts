import 'reflect-metadata';
import { DataSource } from 'typeorm';
import { Initial1763640000000 } from '../../migrations/1763640000000-initial.js';
import { S31763650000000 } from '../../migrations/1763650000000-s3.js';
import { People1763700000000 } from '../../migrations/1763700000000-people.js';
import { Forget1763710000000 } from '../../migrations/1763710000000-forget.js';
import { CountedAttempts1763800000001 } from '../../migrations/1763800000001-counted-attempts.js';
import { Endings1763800000003 } from '../../migrations/1763800000003-endings.js';
import { Passes1763800000004 } from '../../migrations/1763800000004-passes.js';
import { Description1763800000005 } from '../../migrations/1763800000005-description.js';
import { Eta1763800000006 } from '../../migrations/1763800000006-eta.js';
import { EventInbox1763900000000 } from '../../migrations/1763900000000-event-inbox.js';
import { Descriptions1763910000000 } from '../../migrations/1763910000000-descriptions.js';
import { Objects1763910000001 } from '../../migrations/1763910000001-objects.js';
import { ObjectsIndex1763910000002 } from '../../migrations/1763910000002-objects-index.js';
import { Concatenation1763920000000 } from '../../migrations/1763920000000-concatenation.js';
import { Priority1763940000000 } from '../../migrations/1763940000000-priority.js';
import { FileLists1763950000000 } from '../../migrations/1763950000000-file-lists.js';
import { FileSearch1763950000001 } from '../../migrations/1763950000001-file-search.js';
import { ProcessingSince1763950000002 } from '../../migrations/1763950000002-processing-since.js';
import { FileTotals1763950000003 } from '../../migrations/1763950000003-file-totals.js';
import { Durations1763960000000 } from '../../migrations/1763960000000-durations.js';
import { Retention1763970000000 } from '../../migrations/1763970000000-retention.js';
import { Idempotency1763970000001 } from '../../migrations/1763970000001-idempotency.js';
import { EventCursors1763980000000 } from '../../migrations/1763980000000-event-cursors.js';
import { Duplicates1763981000000 } from '../../migrations/1763981000000-duplicates.js';
import { DuplicatesIndex1763981000001 } from '../../migrations/1763981000001-duplicates-index.js';
import { SavedBytes1763981000002 } from '../../migrations/1763981000002-saved-bytes.js';
import { Webhooks1763982000000 } from '../../migrations/1763982000000-webhooks.js';
import { Hooks1763983000000 } from '../../migrations/1763983000000-hooks.js';
import { RemovedJobs1763986000000 } from '../../migrations/1763986000000-removed-jobs.js';
import { LogLevel1763987000000 } from '../../migrations/1763987000000-log-level.js';
import { Derived1763988000000 } from '../../migrations/1763988000000-derived.js';
import { Settings1763989000000 } from '../../migrations/1763989000000-settings.js';
import { Quarantine1763994000000 } from '../../migrations/1763994000000-quarantine.js';
import { Rescans1763994000001 } from '../../migrations/1763994000001-rescans.js';
import { Scrub1763994000002 } from '../../migrations/1763994000002-scrub.js';
import { Delivery1763996000000 } from '../../migrations/1763996000000-delivery.js';
import { CONNECT_MS, DatabasePool, type TimeLimits } from './client.js';
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

interface DatabaseOptions {
  /** Maximum number of connections. */
  poolSize?: number;
  /** Undefined: a statement may take as long as it needs, as in commands. */
  limits?: TimeLimits;
  /** Called for an idle connection that broke; the pool replaces it by itself. */
  onError?(error: Error): void;
}

/**
 * Opens the database.
 * @param name shown in pg_stat_activity
 */
export async function openDatabase(
  url: string,
  name: string,
  { poolSize = 10, limits, onError = () => {} }: DatabaseOptions = {},
): Promise<DataSource> {
  const database = new DataSource({
    type: 'postgres',
    url,
    applicationName: name,
    driver: { Pool: DatabasePool },
    poolSize,
    poolErrorHandler: onError,
    connectTimeoutMS: CONNECT_MS,
    extra: { limits },
    entities: [ApiKey, Blob, Derivative, Event, File, Invitation, Session, Upload, UploadToken, User],
    migrations: [
      Initial1763640000000,
      S31763650000000,
      People1763700000000,
      Forget1763710000000,
      CountedAttempts1763800000001,
      Endings1763800000003,
      Passes1763800000004,
      Description1763800000005,
      Eta1763800000006,
      EventInbox1763900000000,
      Descriptions1763910000000,
      Objects1763910000001,
      ObjectsIndex1763910000002,
      Concatenation1763920000000,
      Priority1763940000000,
      FileLists1763950000000,
      FileSearch1763950000001,
      ProcessingSince1763950000002,
      FileTotals1763950000003,
      Durations1763960000000,
      Retention1763970000000,
      Idempotency1763970000001,
      EventCursors1763980000000,
      Duplicates1763981000000,
      DuplicatesIndex1763981000001,
      SavedBytes1763981000002,
      Webhooks1763982000000,
      Hooks1763983000000,
      RemovedJobs1763986000000,
      LogLevel1763987000000,
      Derived1763988000000,
      Settings1763989000000,
      Quarantine1763994000000,
      Rescans1763994000001,
      Scrub1763994000002,
      Delivery1763996000000,
    ],
  });
  return database.initialize();
}
