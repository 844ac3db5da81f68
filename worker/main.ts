import { randomUUID } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Config, loadConfig, readEnvironment, requireConnected } from '../core/config.js';
import { PASS_LIMITS } from '../core/database/client.js';
import { openErrorReports } from '../core/error-reports.js';
import { openHooks } from '../core/hooks/open.js';
import { createHookSender } from '../core/hooks/sender.js';
import { announceReady, failStart, onShutdown } from '../core/lifecycle.js';
import { createLogger } from '../core/log.js';
import { startParsers } from '../core/media/parsers.js';
import { openMetricsPort } from '../core/metrics/listener.js';
import { createMetrics, type Metrics } from '../core/metrics/metrics.js';
import { type ProcessingWorker, startWorker } from '../core/queue/worker.js';
import { createClamd } from '../core/scanning/clamd.js';
import { simulatedScanner } from '../core/scanning/simulated.js';
import { openServices } from '../core/services.js';
import { watchDiskRoom } from '../core/storage/disk-room.js';
import { createWebhookSender } from '../core/webhooks/message.js';
import { createPost } from '../core/webhooks/post.js';
import { deriveWebhookKey } from '../core/webhooks/secrets.js';
import { createDerivativeStore } from './content.js';
import { watchDependencies } from './dependencies.js';
import { stopEndedRuns } from './ended-runs.js';
import { openFfmpeg } from './ffmpeg/run.js';
import { openHealth } from './health.js';
import { createLanes } from './lanes.js';
import { startDelivery } from './passes/deliver.js';
import { createPublisher } from './passes/publish.js';
import { startReconciler } from './passes/reconcile.js';
import { createRescans } from './passes/rescan.js';
import { createScrub } from './passes/scrub.js';
import { processFile } from './pipeline.js';
import { openSteps } from './steps/all.js';
import { openWorkFolders } from './work-folders.js';

/** How long running jobs may continue after the signal to stop; then the next worker takes them over. */
const FINISH_MS = 3_000;

/** How long the worker waits in all for jobs to end, including those that were cut off. */
const GIVE_UP_MS = 5_000;

/** Shorter than the time that the supervisor and containers wait before they kill the process. */
const SHUTDOWN_MS = 7_000;

/** The longest time for a post hook: sending it and recording the outcome must fit into a claim (core/webhooks/claims.ts). */
const HOOK_MS = 30_000;

/** What the log says about the disk of the work folders. */
const WORK_FOLDERS = {
  short: 'files that a program must read wait until there is room',
  over: 'programs may read files',
};

async function start(config: Readonly<Config>, env: NodeJS.ProcessEnv): Promise<void> {
  const { databaseUrl, jwtSecret } = requireConnected(config);
  const reports = config.sentryDsn ? openErrorReports(config.sentryDsn) : undefined;
  const log = createLogger(config.logLevel, 'worker', config.logFiles, reports);
  // Not the INSTANCE_ID, because a server may have the same one.
  const holder = `worker:${randomUUID()}`;
  const metrics = createMetrics(log);
  const services = await openServices(config, log, { part: 'worker', limits: PASS_LIMITS, holder, metrics });
  const { database, storage, listener } = services;
  const count = Math.min(config.workerConcurrency, availableParallelism());
  const parsers = startParsers({
    count,
    timeoutSeconds: config.parserTimeoutSeconds,
    maxImagePixels: config.maxImagePixels,
    memory: config.parserMemory,
    log,
  });
  const clamd = config.clamav && createClamd(config.clamav);
  const scanner = clamd ?? simulatedScanner;
  const ffmpeg = await openFfmpeg({
    memory: config.parserMemory,
    timeoutSeconds: config.parserTimeoutSeconds,
  });
  log.info({ version: ffmpeg?.version }, ffmpeg ? 'ffmpeg is there' : 'ffmpeg is not installed');
  const workFolders = await openWorkFolders(join(config.dataDir, 'work'), {
    room: watchDiskRoom(config.dataDir, config.diskReserve, log, { effect: WORK_FOLDERS }),
    storage,
    owner: ffmpeg?.owner,
  });
  const derivatives = createDerivativeStore({ database, storage });
  const steps = await openSteps({
    ...services,
    config,
    env,
    parsers,
    parserCount: count,
    scanner,
    ffmpeg,
    derivatives,
    log,
  });
  const dependencies = watchDependencies({
    database,
    storage,
    scanner: clamd,
    log,
    onAway: () => worker.pause(),
    onBack: () => worker.resume(),
  });
  const lanes = createLanes(config.workerConcurrency);
  const worker = startWorker({
    databaseUrl,
    redisUrl: config.redisUrl,
    concurrency: config.workerConcurrency,
    log,
    handle: (job) =>
      lanes.run(job.size, () =>
        processFile({ ...services, dependencies, parsers, workFolders, steps, metrics, log }, job),
      ),
  });
  observeWorker(metrics, worker, config.workerConcurrency);
  const stopWatching = await stopEndedRuns({ database, listener, worker, log });
  const workerName = config.instanceId ?? randomUUID();
  // Loaded only where it is used.
  const broker = config.nats && (await import('./nats/broker.js')).openBroker(config.nats, log);
  const hooks = await openHooks({ config: config.hook, database, metrics, log });
  const stopReconciler = startReconciler({
    ...config,
    ...services,
    createRescans: (signal) =>
      createRescans(
        {
          database,
          storage,
          scanner,
          metrics,
          rescanRate: config.rescanRate,
          rescanNew: config.clamav?.rescan ?? false,
          log,
        },
        signal,
      ),
    createScrub:
      config.scrubRate > 0
        ? (signal) => createScrub({ ...config, database, storage, metrics, log }, signal)
        : undefined,
    hooks: hooks?.of(),
    workerName,
    publisher: broker && (await createPublisher({ database, broker })),
    log,
  });
  const stopDelivery = startDelivery({
    database,
    listener,
    workerName,
    senders: {
      webhook: createWebhookSender({
        post: createPost({ allowPrivate: config.webhookAllowPrivate }),
        key: deriveWebhookKey(jwtSecret),
        retrySeconds: config.webhookRetrySeconds,
      }),
      ...(hooks && {
        hook: createHookSender({
          database,
          post: createPost({ allowPrivate: true, totalMs: Math.min(hooks.config.timeoutMs, HOOK_MS) }),
          config: hooks.config,
          results: hooks.results,
          metrics,
          retrySeconds: config.webhookRetrySeconds,
        }),
      }),
    },
    metrics,
    log,
  });
  const health =
    config.healthPort === undefined ? undefined : await openHealth(config.host, config.healthPort);
  const metricsPort = await openMetricsPort(metrics, config, log);
  onShutdown(log, SHUTDOWN_MS, async () => {
    const cut = setTimeout(() => {
      worker.interrupt();
      hooks?.stop();
    }, FINISH_MS);
    broker?.close();
    // A queue whose database has just broken down may never close; it then ends with the process.
    await Promise.race([Promise.all([worker.close(), stopReconciler(), stopDelivery()]), pause(GIVE_UP_MS)]);
    clearTimeout(cut);
    hooks?.stop();
    await hooks?.flush();
    stopWatching();
    dependencies.stop();
    health?.close();
    metricsPort?.close();
    parsers.close();
    await Promise.all([services.close(), reports?.close()]);
  });

  log.info('working');
  announceReady();
}

/** Adds how busy this worker is. */
function observeWorker(metrics: Metrics, worker: ProcessingWorker, slots: number): void {
  metrics.observe(
    {
      landfall_worker_jobs_running: { help: 'Jobs that this worker runs now' },
      landfall_worker_slots: { help: 'Jobs that this worker runs at once, at most' },
    },
    () => ({ landfall_worker_jobs_running: worker.running().length, landfall_worker_slots: slots }),
  );
}

try {
  const env = readEnvironment();
  await start(loadConfig(env), env);
} catch (error) {
  failStart(error);
}
