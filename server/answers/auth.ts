import { z } from 'zod';
import { user } from './account.js';

export const registrationNow = z.object({
  registration: z.enum(['open', 'invite', 'closed']).describe('Who may create an account now'),
  signIn: z.boolean().describe('False (AUTH=off): requests need no token, and all act as one local user'),
});

const tokens = z.object({
  user,
  accessToken: z.string(),
  refreshToken: z.string(),
  expiresIn: z.int().min(0).describe('Seconds until the access token expires'),
});

export const session = tokens;

/** The refresh token of the page is in its cookie only. */
export const refreshedSession = tokens.partial({ refreshToken: true });

export type RegistrationJson = z.input<typeof registrationNow>;

export type SessionJson = z.input<typeof refreshedSession>;
