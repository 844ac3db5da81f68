import { type IAudioMetadata, parseBuffer, selectCover, UnsupportedFileTypeError } from 'music-metadata';
import { AppError } from '../errors.js';
import { codecName } from './codecs.js';
import { type Movie, readMovie } from './movie.js';
import { toPlainJson } from './plain-json.js';
import { type TaskInput, tooLarge } from './task-input.js';
import { makeThumbnails, type Thumbnails } from './thumbnails.js';

/* The facts of sound and video that their headers and tags tell. Nothing of the sound or the video is decoded. */

/** A track of sound. */
export interface SoundFacts {
  /** As codecName(). */
  codec?: string | undefined;
  /** Samples a second. */
  sampleRate?: number | undefined;
  channels?: number | undefined;
}

export interface AudioFacts extends SoundFacts {
  durationSeconds?: number | undefined;
  /** Bits a second. */
  bitrate?: number | undefined;
}

export interface VideoFacts {
  durationSeconds?: number | undefined;
  bitrate?: number | undefined;
  codec?: string | undefined;
  /** Pixels, upright: after the rotation. */
  width?: number | undefined;
  height?: number | undefined;
  /** Degrees clockwise by which the stored picture is turned. */
  rotation?: number | undefined;
  /** Pictures a second. */
  frameRate?: number | undefined;
  audioTracks?: (SoundFacts & { language?: string | undefined })[];
}

export interface MediaTask {
  /** The detected type. */
  type: string;
}

export interface Media {
  /** `audio` or `video`, and `tags`; fit for a jsonb column. */
  metadata: Record<string, unknown>;
  /** Of the cover; undefined: there is none. */
  cover?: Thumbnails;
  /** Why the cover could not be read. */
  coverProblem?: { code: string; detail: string };
}

/** Formats of music-metadata by types that it does not know. */
const KNOWN_AS: [RegExp, string][] = [
  [/^(audio|video)\/(mp4|x-m4[avb]|quicktime|3gpp2?)$/, 'video/mp4'],
  [/^(audio|video)\/x-matroska$/, 'video/matroska'],
];

const isIso = (type: string) => type === 'video/mp4';

/** Formats whose header tells the duration; for others the end of the file is needed. */
const HEADER_TELLS = /^(video\/mp4|(audio|video)\/(matroska|webm)|audio\/flac)$/;

/**
 * Reads facts, tags and the cover.
 * @returns null: no reader is known for this type
 * @throws {AppError} unreadable; too_much_memory when the header is beyond the given first bytes
 */
export async function readMedia(input: TaskInput, { type }: MediaTask): Promise<Media | null> {
  const { bytes, size } = input;
  const isWhole = bytes.length === size;
  const known = KNOWN_AS.find(([pattern]) => pattern.test(type))?.[1] ?? type;
  const movie = isIso(known) ? readMovie(bytes) : undefined;
  if (isIso(known) && !movie) {
    if (!isWhole) throw tooLarge(size, bytes.length);
    throw new AppError('unreadable', { detail: 'The header of the movie is missing: the file is cut off' });
  }
  const found = await parse(movie?.header ?? bytes, known, size, isWhole);
  if (!found) return null;
  const facts = movie?.video || isVideo(found, type) ? videoFacts(found, movie) : audioFacts(found);
  const isTold = isWhole || HEADER_TELLS.test(known);
  const metadata = toPlainJson({
    [facts.kind]: { ...facts.facts, ...(isTold ? {} : { durationSeconds: undefined, bitrate: undefined }) },
    tags: readTags(found),
  });
  return { metadata, ...(await readCover(input, found)) };
}

async function parse(
  bytes: Buffer,
  mimeType: string,
  size: number,
  isWhole: boolean,
): Promise<IAudioMetadata | undefined> {
  try {
    return await parseBuffer(bytes, { mimeType, size }, { duration: isWhole });
  } catch (error) {
    if (error instanceof UnsupportedFileTypeError) return undefined;
    const reason = error instanceof Error ? error.message : String(error);
    throw new AppError('unreadable', { detail: `The tags cannot be read: ${reason}`, cause: error });
  }
}

/** An MP4 without video is a movie too; other containers say whether they hold video. */
function isVideo({ format }: IAudioMetadata, type: string): boolean {
  return format.hasVideo === true && !isIso(type) && type.startsWith('video/');
}

function audioFacts({ format }: IAudioMetadata): { kind: 'audio'; facts: AudioFacts } {
  const { codec, duration, bitrate, sampleRate, numberOfChannels } = format;
  const facts = {
    codec: codecName(codec),
    durationSeconds: roundSeconds(duration),
    bitrate: bitrate && Math.round(bitrate),
    sampleRate,
    channels: numberOfChannels,
  };
  return { kind: 'audio', facts };
}

function videoFacts(
  { format }: IAudioMetadata,
  movie: Movie | undefined,
): { kind: 'video'; facts: VideoFacts } {
  const tracks = format.trackInfo ?? [];
  const track = tracks.find(({ video }) => video);
  const video = track?.video;
  const facts = {
    durationSeconds: roundSeconds(movie?.durationSeconds ?? format.duration),
    codec: codecName(movie?.video?.format ?? track?.codecName),
    width: movie?.video?.width ?? video?.pixelWidth,
    height: movie?.video?.height ?? video?.pixelHeight,
    rotation: movie?.video?.rotation,
    audioTracks: tracks.flatMap(({ audio, codecName: codec, language }) =>
      audio
        ? [
            {
              codec: codecName(codec),
              sampleRate: audio.samplingFrequency,
              channels: audio.channels,
              language,
            },
          ]
        : [],
    ),
  };
  return { kind: 'video', facts };
}

function readTags({ common }: IAudioMetadata): Record<string, unknown> {
  const { title, artist, album, albumartist, composer, year, genre, track, disk } = common;
  return {
    title,
    artist,
    album,
    albumArtist: albumartist,
    composer: composer?.join(', '),
    year,
    genre: genre && genre.length > 0 ? genre : undefined,
    track: track.no ?? undefined,
    tracks: track.of ?? undefined,
    disc: disk.no ?? undefined,
    discs: disk.of ?? undefined,
  };
}

/** A cover that cannot be read leaves the facts as they are. */
async function readCover(
  { limits }: TaskInput,
  { common }: IAudioMetadata,
): Promise<Pick<Media, 'cover' | 'coverProblem'>> {
  const picture = selectCover(common.picture);
  if (!picture) return {};
  try {
    const bytes = Buffer.from(picture.data);
    return { cover: await makeThumbnails({ bytes, size: bytes.length, limits }) };
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { coverProblem: { code: error.code, detail: `The cover: ${error.message}` } };
  }
}

const roundSeconds = (seconds: number | undefined) =>
  seconds === undefined ? undefined : Math.round(seconds * 1000) / 1000;
