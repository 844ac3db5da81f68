/* The loudness of sound over time, for a picture of its waveform. */

export interface Waveform {
  /** Seconds of sound. */
  durationSeconds: number;
  /** The loudest sample, from 0 to 1: the largest that the format can hold. */
  loudest: number;
  /** The loudest sample of each of equally long parts, relative to the loudest of all: from 0 to 1. */
  peaks: number[];
}

/** Parts of a waveform at most: more than a screen shows. */
const MOST_PEAKS = 1000;

/** Parts that are kept meanwhile, because the length is only known at the end. */
const MOST_KEPT = 8 * MOST_PEAKS;

export interface PeakCollector {
  /** Adds samples, from -1 to 1, of all channels in turn. */
  push(samples: Iterable<number> & { length: number }): void;
  /** @param perSecond samples a second, of all channels together */
  end(perSecond: number): Waveform;
}

/** Collects the peaks of sound of any length in little memory: when there are too many parts, two become one. */
export function collectPeaks(): PeakCollector {
  let kept: number[] = [];
  /** Samples in each part. */
  let length = 1;
  let samples = 0;
  let loudest = 0;
  /** The peak of the part that is not full, and how many samples it has. */
  let peak = 0;
  let filled = 0;

  function closePart(): void {
    kept.push(peak);
    if (peak > loudest) loudest = peak;
    peak = 0;
    filled = 0;
    if (kept.length < MOST_KEPT) return;
    kept = reduce(kept, MOST_KEPT / 2);
    length *= 2;
  }

  return {
    push(values) {
      samples += values.length;
      for (const value of values) {
        const level = value < 0 ? -value : value;
        // Not a number never is greater.
        if (level > peak) peak = Math.min(level, 1);
        if (++filled >= length) closePart();
      }
    },
    end(perSecond) {
      if (filled > 0) closePart();
      const peaks = reduce(kept, MOST_PEAKS).map((one) => round(loudest > 0 ? one / loudest : 0));
      return { durationSeconds: round(samples / perSecond), loudest: round(loudest), peaks };
    },
  };
}

/** The largest values of equal parts of a list. */
function reduce(values: number[], most: number): number[] {
  const count = Math.min(values.length, most);
  const start = (part: number) => Math.floor((part * values.length) / count);
  return Array.from({ length: count }, (_, part) => Math.max(...values.slice(start(part), start(part + 1))));
}

const round = (value: number) => Math.round(value * 1000) / 1000;
