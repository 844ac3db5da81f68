import { z } from 'zod';
import { codecName } from '../../core/media/codecs.js';
import type { AudioFacts, SoundFacts, VideoFacts } from '../../core/media/media-facts.js';
import type { WorkFolder } from '../work-folders.js';
import { type Ffmpeg, unreadable } from './run.js';

/* What ffprobe tells about the tracks of a file. */

/** Demuxers of ffmpeg by media type. A type that is not here is not given to ffmpeg. */
const DEMUXERS: Record<string, string> = {
  'audio/aac': 'aac',
  'audio/aiff': 'aiff',
  'audio/amr': 'amr',
  'audio/ape': 'ape',
  'audio/flac': 'flac',
  'audio/matroska': 'matroska',
  'audio/mp4': 'mov',
  'audio/mpeg': 'mp3',
  'audio/ogg': 'ogg',
  'audio/vnd.dolby.dd-raw': 'ac3',
  'audio/wav': 'wav',
  'audio/wavpack': 'wv',
  'audio/webm': 'matroska',
  'audio/x-m4a': 'mov',
  'audio/x-ms-asf': 'asf',
  'video/3gpp': 'mov',
  'video/3gpp2': 'mov',
  'video/matroska': 'matroska',
  'video/mp1s': 'mpeg',
  'video/mp2p': 'mpeg',
  'video/mp2t': 'mpegts',
  'video/mp4': 'mov',
  'video/mpeg': 'mpegvideo',
  'video/ogg': 'ogg',
  'video/quicktime': 'mov',
  'video/vnd.avi': 'avi',
  'video/webm': 'matroska',
  'video/x-flv': 'flv',
  'video/x-m4v': 'mov',
  'video/x-ms-asf': 'asf',
};

/** @param type such as `audio/ogg; codecs=opus` */
export function demuxerOf(type: string): string | undefined {
  const [essence = ''] = type.toLowerCase().split(';');
  return DEMUXERS[essence.trim()];
}

/**
 * The arguments that open the content. Neither format nor protocol is chosen by the content: a playlist or a list of files
 * (HLS, concat) would make ffmpeg open what it names.
 */
export function inputArgs(demuxer: string): string[] {
  return ['-protocol_whitelist', 'file', '-format_whitelist', demuxer, '-f', demuxer, '-i', 'file:content'];
}

/** Bytes of ffprobe's answer; of a thousand tracks, say. */
const MAX_ANSWER = 1024 ** 2;

/** Tracks of sound that are told. */
const MOST_TRACKS = 32;

const ENTRIES = [
  'format=duration,bit_rate',
  'stream=index,codec_type,codec_name,width,height,sample_aspect_ratio,avg_frame_rate,sample_rate,channels,bit_rate,duration',
  'stream_disposition=attached_pic',
  'stream_tags=language,rotate',
  'stream_side_data=rotation',
].join(':');

/** ffprobe writes most numbers as text, and N/A for what it does not know. */
const number = z.coerce.number().positive().optional().catch(undefined);

const answer = z.object({
  format: z.object({ duration: number, bit_rate: number }).optional(),
  streams: z.array(
    z.object({
      index: z.int(),
      codec_type: z.string().optional(),
      codec_name: z.string().optional(),
      width: number,
      height: number,
      sample_aspect_ratio: z.string().optional(),
      avg_frame_rate: z.string().optional(),
      sample_rate: number,
      channels: number,
      bit_rate: number,
      duration: number,
      disposition: z.object({ attached_pic: z.int().optional() }).optional(),
      tags: z.object({ language: z.string().optional(), rotate: z.string().optional() }).optional(),
      side_data_list: z.array(z.object({ rotation: z.number().optional() })).optional(),
    }),
  ),
});

type Stream = z.output<typeof answer>['streams'][number];

/** A file as ffprobe sees it. */
export interface Probed {
  demuxer: string;
  durationSeconds: number | undefined;
  /** The first video track that is no cover. */
  video?: { index: number; facts: VideoFacts; shown: Dimensions };
  /** The first track of sound. */
  audio?: { index: number; facts: AudioFacts };
}

/** Pixels. */
export interface Dimensions {
  width: number;
  height: number;
}

/** @throws {AppError} as Ffmpeg.read() */
export async function probe(
  ffmpeg: Pick<Ffmpeg, 'read'>,
  demuxer: string,
  folder: WorkFolder,
  signal: AbortSignal,
): Promise<Probed> {
  const args = ['-v', 'error', '-of', 'json', '-show_entries', ENTRIES, ...inputArgs(demuxer)];
  const bytes = await ffmpeg.read({ program: 'ffprobe', args, folder, signal }, MAX_ANSWER);
  const parsed = answer.safeParse(parseJson(bytes));
  if (!parsed.success) throw unreadable('ffprobe gives no usable answer');
  const { streams, format } = parsed.data;
  const durationSeconds = round(format?.duration ?? streams.find(({ duration }) => duration)?.duration);
  const common = { durationSeconds, bitrate: format?.bit_rate };
  const video = streams.find((one) => one.codec_type === 'video' && !one.disposition?.attached_pic);
  const sounds = streams.filter((one) => one.codec_type === 'audio').slice(0, MOST_TRACKS);
  const [audio] = sounds;
  return {
    demuxer,
    durationSeconds,
    ...(video && { video: describeVideo(video, sounds, common) }),
    ...(audio && { audio: { index: audio.index, facts: { ...common, ...describeSound(audio) } } }),
  };
}

function describeVideo(stream: Stream, sounds: Stream[], common: AudioFacts): Probed['video'] & object {
  const rotation = rotationOf(stream);
  const { width = 0, height = 0 } = stream;
  const aspect = ratio(stream.sample_aspect_ratio, ':');
  const stored = { width: Math.round(width * (aspect ?? 1)), height };
  const turn = ({ width: w, height: h }: Dimensions) =>
    rotation % 180 === 0 ? { width: w, height: h } : { width: h, height: w };
  const facts: VideoFacts = {
    ...common,
    codec: codecName(stream.codec_name),
    ...(width > 0 && height > 0 ? turn({ width, height }) : {}),
    rotation,
    frameRate: round(ratio(stream.avg_frame_rate, '/')),
    audioTracks: sounds.map((one) => ({ ...describeSound(one), language: one.tags?.language })),
  };
  return { index: stream.index, facts, shown: turn(stored) };
}

const describeSound = ({ codec_name, sample_rate, channels }: Stream): SoundFacts => ({
  codec: codecName(codec_name),
  sampleRate: sample_rate,
  channels,
});

/** Clockwise. The display matrix counts the other way; older versions of ffmpeg tell a tag instead. */
function rotationOf({ side_data_list, tags }: Stream): number {
  const matrix = side_data_list?.find(({ rotation }) => rotation !== undefined)?.rotation;
  const degrees = Math.round((matrix !== undefined ? -matrix : Number(tags?.rotate ?? 0)) / 90) * 90;
  return Number.isFinite(degrees) ? ((degrees % 360) + 360) % 360 : 0;
}

/** Such as `30000/1001`. @returns undefined: not known */
function ratio(text: string | undefined, separator: string): number | undefined {
  const [above = 0, below = 0] = (text ?? '').split(separator).map(Number);
  return above > 0 && below > 0 ? above / below : undefined;
}

const round = (value: number | undefined) =>
  value === undefined ? undefined : Math.round(value * 1000) / 1000;

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}
