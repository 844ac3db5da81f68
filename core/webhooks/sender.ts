import type { Claim } from './claims.js';
import type { Outcome } from './outcomes.js';

/** The outcome of an attempt, with the wishes of the receiver. */
export interface Sent extends Outcome {
  /** The receiver wants no more messages, ever. */
  isGone?: boolean;
  /** Seconds until the receiver wants to be asked again. */
  retryAfter?: number | undefined;
}

/** Sends the deliveries of one kind of subscription. */
export interface Sender {
  /** Seconds before each repetition of a failed attempt; after that the delivery is given up. */
  retrySeconds: readonly number[];
  /**
   * Sends a delivery once. It ends within CLAIM_SECONDS, whatever the receiver does, and does not throw because of the
   * receiver.
   */
  send(claim: Claim, signal: AbortSignal): Promise<Sent>;
}
