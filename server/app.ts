import { existsSync } from 'node:fs';
import express, { type Express, type RequestHandler } from 'express';
import type { Config } from '../core/config.js';
import type { Estimates } from '../core/files/estimates.js';
import type { HookTrial } from '../core/hooks/trial.js';
import type { Metrics } from '../core/metrics/metrics.js';
import { type AuthenticateDeps, createAuthenticate } from './auth/authenticate.js';
import { isWrongToken } from './auth/tokens.js';
import { BOARD_PATH, createBoard } from './board.js';
import type { Check } from './health/checks.js';
import { cors, preflight } from './http/cors.js';
import { denyUserAgents } from './http/denied-agents.js';
import type { Drain } from './http/drain.js';
import { lingeringClose } from './http/lingering-close.js';
import { servePage } from './http/page.js';
import { lockedForNow, notFound, problemHandler, toAppError } from './http/problem.js';
import { countRequests } from './http/request-metrics.js';
import { traceRequests } from './http/request-traces.js';
import { refuseOddities, requestLog } from './http/requests.js';
import { securityHeaders } from './http/security-headers.js';
import { createOnce } from './idempotency/once.js';
import { offerUploads } from './ietf/limits.js';
import { resumablePosts, resumableUploads } from './ietf/routes.js';
import type { Limits } from './limits/limits.js';
import type { Streams } from './live/streams.js';
import type { TypeCheckDeps } from './plain/type-check.js';
import { adminStatsRoute } from './routes/admin-stats.js';
import { adminWebhookRoutes } from './routes/admin-webhooks.js';
import { auditRoutes } from './routes/audit.js';
import { authRoutes } from './routes/auth.js';
import { contentRoutes } from './routes/content.js';
import { eventRoutes } from './routes/events.js';
import { fileBatchRoutes } from './routes/file-batch.js';
import { fileControlRoutes } from './routes/file-control.js';
import { fileListRoute } from './routes/file-list.js';
import { fileRoutes } from './routes/files.js';
import { healthRoutes } from './routes/health.js';
import { hookRoutes } from './routes/hooks.js';
import { invitationRoutes } from './routes/invitations.js';
import { jobRoutes } from './routes/jobs.js';
import { keyRoutes } from './routes/keys.js';
import { logLevelRoutes } from './routes/log-level.js';
import { meRoutes } from './routes/me.js';
import { metricsRoute } from './routes/metrics.js';
import { openApiRoute } from './routes/openapi.js';
import { plainUploadRoutes } from './routes/plain-upload.js';
import { processingRoutes } from './routes/processing.js';
import { processingSettingsRoutes } from './routes/processing-settings.js';
import { queueRoutes } from './routes/queue.js';
import { rescanRoutes } from './routes/rescans.js';
import { type AnyRoute, serve } from './routes/route.js';
import { statsRoutes } from './routes/stats.js';
import { stepAnswerRoutes } from './routes/step-answers.js';
import { uploadInfoRoutes } from './routes/upload-info.js';
import { uploadTokenRoutes } from './routes/upload-tokens.js';
import { uploadRoutes } from './routes/uploads.js';
import { userRoutes } from './routes/users.js';
import { webhookDeliveryRoutes } from './routes/webhook-deliveries.js';
import { webhookRoutes } from './routes/webhooks.js';
import { createTusHandler, type TusDeps } from './tus/handler.js';
import { createTusLimits } from './tus/limits.js';
import { tusPreflight } from './tus/preflight.js';

export interface AppDeps extends TusDeps, AuthenticateDeps, TypeCheckDeps {
  hook: Config['hook'];
  hookAuth: Config['hookAuth'];
  tryHook?: (() => Promise<HookTrial>) | undefined;
  trustProxy: Config['trustProxy'];
  registration: Config['registration'];
  redisUrl: Config['redisUrl'];
  deniedUserAgents: Config['deniedUserAgents'];
  optimize: Config['optimize'];
  slowRequestMs: Config['slowRequestMs'];
  accessTokenMinutes: number;
  trashDays: Config['trashDays'];
  fileRetentionHours: Config['fileRetentionHours'];
  webhookAllowPrivate: Config['webhookAllowPrivate'];
  limits: Limits;
  streams: Streams;
  estimates: Estimates;
  metrics: Metrics;
  /** Of the services that this server depends on. */
  checks: readonly Check[];
  dataDir: string;
  metricsToken: Config['metricsToken'];
  /** Folder of the built page. */
  pageDir: string;
  drain: Drain;
}

/** Builds the HTTP application; it does not listen. */
export function buildApp(deps: AppDeps): Express {
  const app = express();
  app.disable('x-powered-by');
  // Handlers set ETags where they are useful; hashing every JSON answer would be wasted work.
  app.disable('etag');
  app.set('trust proxy', deps.trustProxy);

  const { drain, limits, refusals } = deps;
  const authenticate = createAuthenticate(deps);
  const tusLimits = createTusLimits(limits);
  const asUploader: RequestHandler = async (req, res, next) => {
    const { method } = req;
    const access = method === 'OPTIONS' ? 'public' : 'upload';
    try {
      await authenticate(req, access, { stillTrue: method === 'DELETE', byHook: deps.hookAuth });
    } catch (error) {
      const told = method === 'HEAD' ? lockedForNow(error) : error;
      // Callers who guess tokens, or may not upload at all, continue no upload, so their requests count.
      if (isWrongToken(error) || toAppError(error).code === 'forbidden') await tusLimits.countMiss(req, res);
      throw told;
    }
    next();
  };

  const routes = declareRoutes(deps);
  app.use(countRequests(deps.metrics, routes));
  if (deps.tracer) app.use(traceRequests(deps.tracer));
  app.use(
    requestLog(app, { log: deps.log, slowMs: deps.slowRequestMs }),
    lingeringClose(),
    securityHeaders(deps.publicUrl),
    refuseOddities,
  );
  app.use(['/uploads', '/api'], cors(deps.corsOrigins));
  app.use(denyUserAgents(deps.deniedUserAgents));
  app.use(['/uploads', '/api/files'], offerUploads(deps));
  const gates = { authenticate, asUploader, limits: tusLimits };
  app.all('/uploads{/*path}', resumableUploads(deps, gates));
  app.all(
    '/uploads{/*path}',
    tusPreflight,
    drain.refuse,
    tusLimits.globally,
    asUploader,
    tusLimits.byKind,
    drain.track(createTusHandler(deps, tusLimits)),
  );
  app.use('/api', preflight(deps.corsHeaders), drain.refuse, limits.global);
  app.use('/api/files', resumablePosts(deps, gates));
  const tracked = routes.map((route) => ({ ...route, handle: drain.track(route.handle) }));
  const once = drain.track(createOnce(deps));
  app.use(serve(tracked, { authenticate, limits, refusals, once }));
  app.use(BOARD_PATH, limits.global);
  app.use(createBoard(deps, authenticate));
  if (existsSync(deps.pageDir)) app.use(servePage(deps.pageDir, deps.storage));
  app.use(notFound);
  app.use(problemHandler(deps.log, refusals));
  return app;
}

/** All routes except tus, the board and the page. */
export function declareRoutes(deps: AppDeps): AnyRoute[] {
  const routes = [
    ...authRoutes(deps),
    ...meRoutes(deps),
    ...keyRoutes(deps),
    ...uploadTokenRoutes(deps),
    fileListRoute(deps),
    ...fileRoutes(deps),
    ...fileControlRoutes(deps),
    ...fileBatchRoutes(deps),
    ...processingRoutes(deps),
    ...stepAnswerRoutes(deps),
    ...processingSettingsRoutes(deps),
    ...plainUploadRoutes(deps),
    ...contentRoutes(deps),
    ...eventRoutes(deps),
    ...webhookRoutes(deps),
    ...webhookDeliveryRoutes(deps),
    ...adminWebhookRoutes(deps),
    ...uploadInfoRoutes(deps),
    ...uploadRoutes(deps),
    ...statsRoutes(deps),
    adminStatsRoute(deps),
    ...userRoutes(deps),
    ...jobRoutes(deps),
    ...queueRoutes(deps),
    ...rescanRoutes(deps),
    ...invitationRoutes(deps),
    ...hookRoutes(deps),
    ...auditRoutes(deps),
    ...logLevelRoutes(deps),
    ...healthRoutes(deps),
    metricsRoute(deps),
  ];
  return [...routes, openApiRoute(routes)];
}
