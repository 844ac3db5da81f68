import { FILE_EVENT_TYPES } from '../events/types.js';

/** Tells the other webhooks of the same owner that one was disabled. */
const DISABLED_EVENT = 'webhook.disabled';

/** Its subject is a webhook, which alone gets it, whatever it has asked for. */
export const TEST_EVENT = 'webhook.test' as const;

/** The types of the events that are delivered. */
export const SUBSCRIBABLE_TYPES: readonly string[] = [...FILE_EVENT_TYPES, DISABLED_EVENT];

/** Each stands for all types that begin alike, including those of later versions. */
export const EVENT_GROUPS = ['upload.*', 'file.*'] as const;
