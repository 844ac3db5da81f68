import { type DataSource, type EntityManager, IsNull } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import type { Config } from '../../core/config.js';
import type { Actor } from '../../core/database/entities/event.js';
import { User } from '../../core/database/entities/user.js';
import { execute } from '../../core/database/rows.js';
import { AppError, hasCode } from '../../core/errors.js';
import { appendEvents } from '../../core/events/append.js';
import type { SignedInActor } from '../auth/principal.js';
import { RefusedError } from '../auth/refusals.js';
import { lockAccount, revokeSessions } from '../auth/sessions.js';
import { checkInvitation, useInvitation } from './invitations.js';
import { isAnybodyRegistered } from './local-account.js';
import { hashPassword, isPassword } from './passwords.js';

/** Key of the advisory lock ("frst" in ASCII) for creating accounts: the first one becomes the admin. */
const FIRST_ACCOUNT_LOCK = 0x66727374;

export interface NewAccount {
  email: string;
  password: string;
  /** Token of an invitation. */
  invitation?: string | undefined;
}

/**
 * Creates an account. The first account becomes the admin and needs no invitation, even if many users
 * register at once.
 * @throws {AppError} email_taken; registration_closed
 */
export async function register(
  database: DataSource,
  registration: Config['registration'],
  { email, password, invitation }: NewAccount,
  actor: Actor,
): Promise<User> {
  const address = email.toLowerCase();
  // A caller who may not register must not cost a hash or learn whether the address is taken.
  const present = await registrationNow(database, registration);
  if (present === 'closed') throw registrationClosed();
  if (present === 'invite') await checkInvitation(database.manager, invitation, address);
  const passwordHash = await hashPassword(password);
  try {
    return await database.transaction(async (manager) => {
      const role = await nextRole(manager);
      if (role !== 'admin' && registration === 'closed') throw registrationClosed();
      const id = uuidv7();
      const user = manager.create(User, { id, email: address, passwordHash, role });
      await manager.insert(User, user);
      const isNeeded = role !== 'admin' && registration === 'invite';
      const used = await useInvitation(manager, invitation, address, isNeeded);
      await appendEvents(manager, [
        {
          type: 'auth.register',
          subjectId: id,
          ownerId: id,
          data: { role, ...(used ? { invitation: used } : {}) },
          actor: { ...actor, userId: id },
        },
      ]);
      return user;
    });
  } catch (error) {
    if (hasCode(error, '23505')) throw new AppError('email_taken', { cause: error });
    throw error;
  }
}

/** Tells who may register at this moment: the first account is open to everybody. */
export async function registrationNow(
  database: DataSource,
  registration: Config['registration'],
): Promise<Config['registration']> {
  if (registration === 'open') return 'open';
  return (await isAnybodyRegistered(database.manager)) ? registration : 'open';
}

function registrationClosed(): AppError {
  return new AppError('registration_closed', { detail: 'Nobody can register here' });
}

/** Blocks other transactions from creating an account until this one ends. */
async function nextRole(manager: EntityManager): Promise<'admin' | 'user'> {
  await execute(manager, 'SELECT pg_advisory_xact_lock($1)', [FIRST_ACCOUNT_LOCK]);
  return (await isAnybodyRegistered(manager)) ? 'user' : 'admin';
}

/**
 * @throws {AppError} wrong_credentials, for an unknown address, a wrong password and a disabled account alike
 */
export async function logIn(database: DataSource, email: string, password: string): Promise<User> {
  // An account of the identity provider may have the same address.
  const user = await database
    .getRepository(User)
    .findOneBy({ email: email.toLowerCase(), externalId: IsNull() });
  const fits = await isPassword(password, user?.passwordHash);
  if (user && fits && !user.disabledAt) return user;
  throw new RefusedError('wrong_credentials', { type: 'auth.login', action: 'login', subjectId: user?.id });
}

/** @throws {AppError} unauthenticated when the account is gone */
export async function getUser(database: DataSource, id: string): Promise<User> {
  const user = await database.getRepository(User).findOneBy({ id });
  if (!user) throw new AppError('unauthenticated', { detail: 'This account does not exist any more' });
  return user;
}

/**
 * Sets another password and ends all other sessions of the account.
 * @param user as read when the request came
 * @throws {AppError} wrong_credentials; unauthenticated when the caller has lost access meanwhile;
 * wrong_state for an account of the identity provider
 */
export async function changePassword(
  database: DataSource,
  user: User,
  passwords: { current: string; next: string },
  actor: SignedInActor,
): Promise<void> {
  const { id, passwordHash: before } = user;
  if (before === null) {
    throw new AppError('wrong_state', {
      detail: 'This account has no password here: its identity provider keeps it, or it is the local account',
    });
  }
  if (!(await isPassword(passwords.current, before))) throw currentIsWrong(id);
  const passwordHash = await hashPassword(passwords.next);
  await database.transaction(async (manager) => {
    // During the hashing another request may have set another password and ended this session.
    await lockAccount(manager, actor);
    const { affected } = await manager.update(User, { id, passwordHash: before }, { passwordHash });
    if (affected === 0) throw currentIsWrong(id);
    await appendEvents(manager, [{ type: 'auth.password', subjectId: id, ownerId: id, actor }]);
    await revokeSessions(manager, id, actor, { except: actor.sessionId });
  });
}

function currentIsWrong(subjectId: string): RefusedError {
  const refusal = { type: 'auth.password', action: 'account', subjectId } as const;
  return new RefusedError('wrong_credentials', refusal, 'The current password is wrong');
}

/** Returns the account of a user of the identity provider. */
export async function findOrCreateExternal(
  database: DataSource,
  externalId: string,
  email: string,
  actor: Actor,
): Promise<User> {
  const users = database.getRepository(User);
  const known = await users.findOneBy({ externalId });
  if (known) return known;
  return database.transaction(async (manager) => {
    const role = await nextRole(manager);
    const madeMeanwhile = await manager.findOneBy(User, { externalId });
    if (madeMeanwhile) return madeMeanwhile;
    const id = uuidv7();
    await manager.insert(User, { id, email: email.toLowerCase(), passwordHash: null, externalId, role });
    await appendEvents(manager, [
      { type: 'auth.register', subjectId: id, ownerId: id, data: { role }, actor: { ...actor, userId: id } },
    ]);
    return manager.findOneByOrFail(User, { id });
  });
}
