import type { ValueTransformer } from 'typeorm';

/** PostgreSQL bigint ↔ JS number. Sizes stay far below 2^53, so a number loses nothing. */
export const bigintColumn: ValueTransformer = {
  to: (value: number | null | undefined) => value,
  from: (value: string | null) => (value === null ? null : Number(value)),
};
