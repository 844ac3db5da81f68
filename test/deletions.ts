import type { TestUser } from './client.js';

/* The ways in which files and uploads go. Each returns the status of the answer. */

export const trash = async (user: TestUser, id: string): Promise<number> =>
  (await user.fetch(`/api/files/${id}`, { method: 'DELETE' })).status;

export const purge = async (user: TestUser, id: string): Promise<number> =>
  (await user.fetch(`/api/files/${id}?permanent=1`, { method: 'DELETE' })).status;

export const terminate = async (user: TestUser, id: string): Promise<number> =>
  (await user.tus('DELETE', `/uploads/${id}`)).status;
