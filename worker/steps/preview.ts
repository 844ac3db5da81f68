import { Readable } from 'node:stream';
import { createLimiter } from '../../core/concurrency.js';
import type { Problem } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import type { Facts } from '../../core/files/steps.js';
import type { Parsers } from '../../core/media/parsers.js';
import type { Waveform } from '../../core/media/peaks.js';
import { toPlainJson } from '../../core/media/plain-json.js';
import { StorageFull } from '../../core/storage/disk-room.js';
import type { DerivativeStore } from '../content.js';
import { makeClip, makePoster, type Poster, type VideoInput } from '../ffmpeg/pictures.js';
import { demuxerOf, type Probed, probe } from '../ffmpeg/probe.js';
import type { Ffmpeg } from '../ffmpeg/run.js';
import { readPeaks, type SoundInput } from '../ffmpeg/sound.js';
import type { WorkFolder } from '../work-folders.js';
import { ONLY_MEDIA, type Outcome, type Step, type StepContext } from './step.js';
import { storeThumbnails } from './thumbnails.js';

interface PreviewDeps {
  derivatives: DerivativeStore;
  parsers: Pick<Parsers, 'run'>;
  /** Undefined: it is not installed. */
  ffmpeg: Ffmpeg | undefined;
  maxImagePixels: number;
  /** How many files ffmpeg works on at once. */
  count: number;
}

type Derivatives = NonNullable<Facts['derivatives']>;

const STEP = 'preview';
const WAV = 'audio/wav';

/**
 * Makes of a video a poster, in the sizes of thumbnails, and a short clip; of sound its waveform. ffmpeg decodes, except
 * for WAV files.
 */
export function createPreviewStep(deps: PreviewDeps): Step {
  const inTurn = createLimiter(deps.count);
  return {
    name: STEP,
    optional: true,
    only: ONLY_MEDIA,
    // Otherwise it holds no parser process, so that it can wait for one that reads the poster.
    decodes: (type) => (type === WAV ? ['waveform'] : []),
    async run(context) {
      const type = context.file.detectedType ?? '';
      const waveform = type === WAV ? await readWav(context) : null;
      if (waveform) return { outcome: 'done', facts: { derivatives: await storeWaveform(deps, waveform) } };
      const demuxer = demuxerOf(type);
      if (!demuxer) return { outcome: 'skipped', reason: `no previews are made of ${type}` };
      const { ffmpeg } = deps;
      if (!ffmpeg) return { outcome: 'skipped', reason: 'not available: ffmpeg is not installed' };
      await deps.derivatives.requireRoom();
      const work = async (folder: WorkFolder): Promise<Outcome> => {
        const probed = await probe(ffmpeg, demuxer, folder, context.signal);
        const shared = { ffmpeg, folder, probed, signal: context.signal };
        if (probed.video) {
          const input = { ...shared, video: probed.video, maxImagePixels: deps.maxImagePixels };
          return { outcome: 'done', facts: await previewVideo(deps, input) };
        }
        if (!probed.audio) return { outcome: 'skipped', reason: 'the file holds neither sound nor video' };
        return { outcome: 'done', facts: await previewSound(deps, { ...shared, audio: probed.audio }) };
      };
      return inTurn(() => withCopy(context, work), context.signal);
    },
  };
}

/** The waveform of a WAV file that a parser process can hold and read. */
async function readWav({ decode }: StepContext): Promise<Waveform | null> {
  try {
    return await decode('waveform');
  } catch (error) {
    if (error instanceof AppError && error.code === 'too_much_memory') return null;
    throw error;
  }
}

/** A file that the disk cannot hold a second time must not wait for its preview. */
async function withCopy(
  { useFolder }: StepContext,
  run: (folder: WorkFolder) => Promise<Outcome>,
): Promise<Outcome> {
  let isCopied = false;
  try {
    return await useFolder((folder) => {
      isCopied = true;
      return run(folder);
    });
  } catch (error) {
    if (isCopied || !(error instanceof StorageFull)) throw error;
    return { outcome: 'skipped', reason: 'not available: the worker has no room for a copy of the file' };
  }
}

/** The facts, the poster and the clip. A warning tells why one of both is missing. */
async function previewVideo(deps: PreviewDeps, input: VideoInput): Promise<Facts> {
  const { facts } = input.video;
  const warnings: Problem[] = [];
  const attempt = async <T>(make: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await make();
    } catch (error) {
      if (!(error instanceof AppError) || error.retryable) throw error;
      warnings.push({ step: STEP, code: error.code, detail: error.message });
      return undefined;
    }
  };
  const poster = await attempt(async () => makePoster(checkPixels(input)));
  const thumbnails = poster && (await attempt(() => storePoster(deps, poster, input.signal)));
  const clip = poster && (await attempt(() => storeClip(deps, poster, input)));
  return {
    metadata: toPlainJson({ video: facts }),
    derivatives: [...(thumbnails ?? []), ...(clip ?? [])],
    warnings,
  };
}

async function storePoster(
  { parsers, derivatives }: PreviewDeps,
  { bytes }: Poster,
  signal: AbortSignal,
): Promise<Derivatives> {
  const source = { size: bytes.length, read: async () => Readable.from([bytes]) };
  return storeThumbnails(derivatives, await parsers.run('thumbnails', source, signal));
}

async function storeClip(
  { derivatives }: PreviewDeps,
  { at }: Poster,
  input: VideoInput,
): Promise<Derivatives> {
  const { bytes, width, height } = await makeClip(input, at);
  const [blob] = await derivatives.write([bytes]);
  return blob ? [{ name: 'preview', blob, contentType: 'video/mp4', width, height }] : [];
}

/**
 * ffmpeg has the same limit for what the video itself says, which may differ from what its container says.
 * @throws {AppError} too_many_pixels
 */
function checkPixels(input: VideoInput): VideoInput {
  const { maxImagePixels } = input;
  const { width = 0, height = 0 } = input.video.facts;
  if (width * height <= maxImagePixels) return input;
  throw new AppError('too_many_pixels', {
    detail: `${width} × ${height} pixels; at most ${maxImagePixels} in all are decoded`,
  });
}

/** The duration is that of the sound: some formats have none in their header, or only an estimate. */
async function previewSound(deps: PreviewDeps, input: SoundInput): Promise<Facts> {
  const waveform = await readPeaks(input);
  const facts: Probed['audio'] & object = input.audio;
  const audio = { ...facts.facts, durationSeconds: waveform.durationSeconds };
  return { metadata: toPlainJson({ audio }), derivatives: await storeWaveform(deps, waveform) };
}

async function storeWaveform({ derivatives }: PreviewDeps, waveform: Waveform): Promise<Derivatives> {
  const [blob] = await derivatives.write([Buffer.from(JSON.stringify(waveform))]);
  const name = 'waveform';
  return blob ? [{ name, blob, contentType: 'application/json', width: null, height: null }] : [];
}
