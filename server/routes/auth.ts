import { parse as parseCookies } from 'cookie';
import type { Request, Response } from 'express';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Config } from '../../core/config.js';
import type { User } from '../../core/database/entities/user.js';
import { AppError } from '../../core/errors.js';
import { getUser, logIn, register, registrationNow } from '../accounts/accounts.js';
import { refreshedSession, registrationNow as registrationAnswer, session } from '../answers/auth.js';
import type { Keys } from '../auth/keys.js';
import type { AdmitLocal } from '../auth/local.js';
import { actorOf } from '../auth/principal.js';
import { type OpenSession, rotateSession, SESSION_DAYS } from '../auth/refresh-tokens.js';
import { closeSession, openSession } from '../auth/sessions.js';
import { signToken } from '../auth/tokens.js';
import { BOARD_COOKIE, BOARD_PATH } from '../board.js';
import { requireKnownOrigin } from '../http/cors.js';
import { originOf } from '../http/origin.js';
import { EMPTY } from './answers.js';
import { password } from './fields.js';
import { type AnyRoute, route } from './route.js';

interface AuthDeps {
  database: DataSource;
  keys: Keys;
  accessTokenMinutes: number;
  registration: Config['registration'];
  publicUrl: string | undefined;
  corsOrigins: Config['corsOrigins'];
  /** Set with AUTH=off: then nobody signs in. */
  admitLocal: AdmitLocal | undefined;
}

const REFRESH_COOKIE = 'landfall_refresh';
const REFRESH_PATH = '/api/auth';

const credentials = z.object({ email: z.email('must be an e-mail address').max(254), password });

/** The page sends its refresh token in a cookie, an API client in the body. */
const refresh = z.object({ refreshToken: z.string().max(2000).optional() });

/** Registration, sign-in, and the session that survives a reload of the page. */
export function authRoutes(deps: AuthDeps): AnyRoute[] {
  const { database, keys, registration, admitLocal } = deps;
  return [
    route({
      method: 'get',
      path: '/api/auth',
      access: 'public',
      summary: 'Tell who may create an account now, and whether requests need a token at all',
      answers: { 200: registrationAnswer },
      async handle() {
        if (admitLocal) return { registration: 'closed', signIn: false };
        return { registration: await registrationNow(database, registration), signIn: true };
      },
    }),
    route({
      method: 'post',
      path: '/api/auth/register',
      access: 'public',
      limit: 'auth',
      summary: 'Create an account; the first one is the admin',
      body: credentials.extend({ invitation: z.string().max(200).optional() }),
      answers: { 201: session },
      problems: ['forbidden', 'registration_closed', 'email_taken', 'wrong_credentials', 'wrong_state'],
      async handle({ body, req, res }) {
        requireKnownOrigin(req, deps, { type: 'auth.register', action: 'register' });
        if (admitLocal) throw nobodySignsIn();
        const actor = actorOf(req);
        const user = await register(database, registration, body, actor);
        return answer(deps, req, res, user, await openSession(database, user, actor, 'auth.register'));
      },
    }),
    route({
      method: 'post',
      path: '/api/auth/login',
      access: 'public',
      limit: 'auth',
      summary: 'Sign in',
      body: credentials,
      answers: { 200: session },
      problems: ['wrong_credentials', 'wrong_state'],
      async handle({ body, req, res }) {
        if (admitLocal) throw nobodySignsIn();
        const actor = actorOf(req);
        const user = await logIn(database, body.email, body.password);
        return answer(deps, req, res, user, await openSession(database, user, actor, 'auth.login'));
      },
    }),
    route({
      method: 'post',
      path: '/api/auth/refresh',
      access: 'public',
      summary: 'Get a new access token, and the next refresh token: each works once',
      body: refresh,
      answers: { 200: refreshedSession },
      problems: ['unauthenticated', 'forbidden'],
      async handle({ body, req, res }) {
        if (admitLocal) return localSession(deps, await getUser(database, admitLocal(req).userId));
        const token = givenToken(deps, req, body, 'refresh');
        if (!token) throw new AppError('unauthenticated', { detail: 'There is no refresh token' });
        const { user, session } = await rotateSession(database, keys.refresh, token, actorOf(req));
        const { refreshToken, ...tokens } = answer(deps, req, res, user, session);
        // The cookie is hidden from scripts, so its token must not appear in the body either.
        return body.refreshToken ? { ...tokens, refreshToken } : tokens;
      },
    }),
    route({
      method: 'post',
      path: '/api/auth/logout',
      access: 'public',
      summary: 'End the session',
      body: refresh,
      answers: { 204: EMPTY },
      problems: ['forbidden'],
      async handle({ body, req, res }) {
        const token = givenToken(deps, req, body, 'logout');
        if (token) await closeSession(database, token, actorOf(req));
        res
          .clearCookie(REFRESH_COOKIE, { path: REFRESH_PATH })
          .clearCookie(BOARD_COOKIE, { path: BOARD_PATH });
      },
    }),
  ];
}

function nobodySignsIn(): AppError {
  const detail = 'AUTH=off: nobody signs in here; send requests without a token, or with any';
  return new AppError('wrong_state', { detail });
}

/** With AUTH=off pages need no other code than with accounts. The token opens nothing, even when AUTH is on again. */
function localSession(
  { accessTokenMinutes }: AuthDeps,
  { id, email, role }: User,
): z.output<typeof refreshedSession> {
  return { user: { id, email, role }, accessToken: 'auth-is-off', expiresIn: accessTokenMinutes * 60 };
}

/** The answer after a session opens or continues. Also sets the cookies of the page. */
function answer(
  deps: AuthDeps,
  req: Request,
  res: Response,
  user: User,
  { id, refreshToken }: OpenSession,
): z.output<typeof session> {
  const { keys, accessTokenMinutes: minutes } = deps;
  const principal = { userId: user.id, role: user.role, sessionId: id };
  const secure = originOf(req, deps.publicUrl).startsWith('https:');
  const cookie = { httpOnly: true, sameSite: 'strict', secure } as const;
  res.cookie(REFRESH_COOKIE, refreshToken, {
    ...cookie,
    path: REFRESH_PATH,
    maxAge: SESSION_DAYS * 86_400_000,
  });
  if (user.role === 'admin') {
    const board = signToken(principal, keys.board, minutes);
    res.cookie(BOARD_COOKIE, board, { ...cookie, path: BOARD_PATH, maxAge: minutes * 60_000 });
  } else {
    // An admin may have used this browser before.
    res.clearCookie(BOARD_COOKIE, { path: BOARD_PATH });
  }
  res.setHeader('Cache-Control', 'no-store');
  return {
    user: { id: user.id, email: user.email, role: user.role },
    accessToken: signToken(principal, keys.access, minutes),
    refreshToken,
    expiresIn: minutes * 60,
  };
}

/** The refresh token of the request. The cookie is accepted from pages of this server only. */
function givenToken(
  { publicUrl }: AuthDeps,
  req: Request,
  body: z.infer<typeof refresh>,
  action: string,
): string | undefined {
  if (body.refreshToken !== undefined) return body.refreshToken;
  const token = parseCookies(req.get('Cookie') ?? '')[REFRESH_COOKIE];
  if (token !== undefined) requireKnownOrigin(req, { publicUrl }, { action });
  return token;
}
