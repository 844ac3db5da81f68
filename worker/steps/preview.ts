import { Readable } from 'node:stream';
import type { Problem } from '../../core/database/entities/file.js';
import { AppError } from '../../core/errors.js';
import type { Facts } from '../../core/files/steps.js';
import type { Parsers } from '../../core/media/parsers.js';
import type { Waveform } from '../../core/media/peaks.js';
import { toPlainJson } from '../../core/media/plain-json.js';
import { StorageFull } from '../../core/storage/disk-room.js';
import type { DerivativeStore } from '../content.js';
import { makeClip, makePoster, type VideoInput } from '../ffmpeg/pictures.js';
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
}

type Derivatives = NonNullable<Facts['derivatives']>;

const STEP = 'preview';
const WAV = 'audio/wav';

/**
 * Makes of a video a poster, in the sizes of thumbnails, and a short clip; of sound its waveform. ffmpeg decodes, except
 * for WAV files.
 */
export function createPreviewStep(deps: PreviewDeps): Step {
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
      return withCopy(context, async (folder) => {
        const probed = await probe(ffmpeg, demuxer, folder, context.signal);
        const shared = { ffmpeg, folder, probed, signal: context.signal };
        if (probed.video) {
          const input = { ...shared, video: probed.video, maxImagePixels: deps.maxImagePixels };
          return { outcome: 'done', facts: await previewVideo(deps, input) };
        }
        if (!probed.audio) return { outcome: 'skipped', reason: 'the file holds neither sound nor video' };
        return { outcome: 'done', facts: await previewSound(deps, { ...shared, audio: probed.audio }) };
      });
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
  try {
    return await useFolder(run);
  } catch (error) {
    if (!(error instanceof StorageFull)) throw error;
    return { outcome: 'skipped', reason: 'not available: the worker has no room for a copy of the file' };
  }
}

/** The facts, the poster and the clip. If only one of both can be made, a warning tells why the other is missing. */
async function previewVideo(deps: PreviewDeps, input: VideoInput): Promise<Facts> {
  const { facts } = input.video;
  const warnings: Problem[] = [];
  const attempt = async (make: () => Promise<Derivatives>) => {
    try {
      return await make();
    } catch (error) {
      if (!(error instanceof AppError) || error.retryable) throw error;
      warnings.push({ step: STEP, code: error.code, detail: error.message });
      return [];
    }
  };
  const made = [
    ...(await attempt(() => storePoster(deps, input))),
    ...(await attempt(() => storeClip(deps, input))),
  ];
  return { metadata: toPlainJson({ video: facts }), derivatives: made, warnings: distinct(warnings) };
}

async function storePoster({ parsers, derivatives }: PreviewDeps, input: VideoInput): Promise<Derivatives> {
  checkPixels(input);
  const poster = await makePoster(input);
  const source = { size: poster.length, read: async () => Readable.from([poster]) };
  return storeThumbnails(derivatives, await parsers.run('thumbnails', source, input.signal));
}

async function storeClip({ derivatives }: PreviewDeps, input: VideoInput): Promise<Derivatives> {
  checkPixels(input);
  const { bytes, width, height } = await makeClip(input);
  const [blob] = await derivatives.write([bytes]);
  return blob ? [{ name: 'preview', blob, contentType: 'video/mp4', width, height }] : [];
}

/** ffmpeg has the same limit for what the video itself says, which may differ from what its container says. */
function checkPixels({ video: { facts }, maxImagePixels }: VideoInput): void {
  const { width = 0, height = 0 } = facts;
  if (width * height <= maxImagePixels) return;
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

/** The same reason often holds for the poster and for the clip. */
function distinct(problems: Problem[]): Problem[] {
  return [...new Map(problems.map((problem) => [JSON.stringify(problem), problem])).values()];
}
