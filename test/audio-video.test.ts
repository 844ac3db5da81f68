import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import type { Waveform } from '../core/media/peaks.js';
import { type FileJson, registerUser, type TestUser } from './support/client.js';
import { makeJpeg } from './support/fixtures.js';
import { type Processes, startProcesses } from './support/processes.js';
import { inspect, picture, record, tone, turn } from './support/recordings.js';

const TAGS = [
  ...['-metadata', 'title=Möwen', '-metadata', 'artist=Ada', '-metadata', 'album=Meer'],
  ...['-metadata', 'track=2/9', '-metadata', 'date=2021', '-metadata', 'genre=Jazz'],
];

let processes: Processes;
let user: TestUser;

async function process(content: Buffer, filename: string): Promise<FileJson> {
  return user.settled(await user.upload(content, { filename }));
}

async function waveformOf({ id }: FileJson): Promise<Waveform> {
  return user.get(`/api/files/${id}/derived/waveform`);
}

async function bytesOf(path: string): Promise<Buffer> {
  const answer = await user.fetch(path);
  expect(answer.status).toBe(200);
  return Buffer.from(await answer.arrayBuffer());
}

const namesOf = (file: FileJson) => file.derived.map(({ name }) => name);

/** The mean brightness of a thumbnail, from 0 to 255. */
async function brightness({ id }: FileJson): Promise<number> {
  const { channels } = await sharp(await bytesOf(`/api/files/${id}/thumbnails/large`)).stats();
  return channels.reduce((sum, { mean }) => sum + mean, 0) / channels.length;
}

describe('with ffmpeg', () => {
  beforeAll(async () => {
    processes = await startProcesses({ MAX_IMAGE_PIXELS: '1000000' });
    user = await registerUser(() => processes.url);
  });

  afterAll(() => processes?.close());

  it('reads tags and facts of an MP3 file, shows its cover and its waveform', async () => {
    const cover = await makeJpeg({ width: 800, height: 400 });
    const args = [...tone(), '-i', 'cover.jpg', '-map', '0', '-map', '1', ...TAGS];
    const mp3 = await record('mp3', args, { 'cover.jpg': cover });
    const file = await process(mp3, 'a.mp3');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'audio/mpeg', warnings: [] });
    expect(file.metadata.tags).toEqual({
      title: 'Möwen',
      artist: 'Ada',
      album: 'Meer',
      year: 2021,
      genre: ['Jazz'],
      track: 2,
      tracks: 9,
    });
    expect(file.metadata.audio).toMatchObject({ codec: 'mp3', sampleRate: 44_100, channels: 1 });
    expect(file.metadata.audio.durationSeconds).toBeCloseTo(3, 1);
    expect(file.metadata.audio.bitrate).toBeGreaterThan(30_000);
    expect(Object.keys(file.links.thumbnails ?? {}).sort()).toEqual(['large', 'medium', 'small']);
    const small = await bytesOf(`/api/files/${file.id}/thumbnails/small`);
    expect(await sharp(small).metadata()).toMatchObject({ format: 'webp', width: 200, height: 100 });
    expect(file.derived).toMatchObject([{ name: 'waveform', contentType: 'application/json', width: null }]);
    const { peaks, loudest, durationSeconds } = await waveformOf(file);
    expect(peaks).toHaveLength(1000);
    expect(Math.max(...peaks)).toBe(1);
    expect(loudest).toBeCloseTo(1 / 8, 1);
    expect(durationSeconds).toBeCloseTo(3, 1);
  });

  it.each([
    ['mp3', 'audio/mpeg', 'mp3', ['-write_id3v2', '0', '-write_xing', '0']],
    ['m4a', 'audio/x-m4a', 'aac', []],
    ['mp4', 'audio/mp4', 'aac', ['-movflags', 'faststart']],
    ['ogg', 'audio/ogg', 'vorbis', ['-c:a', 'libvorbis']],
    ['opus', 'audio/ogg; codecs=opus', 'opus', []],
    ['flac', 'audio/flac', 'flac', []],
    ['wav', 'audio/wav', 'pcm', []],
    ['aiff', 'audio/aiff', 'pcm', []],
    ['aac', 'audio/aac', 'aac', []],
    ['webm', 'audio/webm', 'opus', []],
    ['mka', 'audio/matroska', 'vorbis', ['-c:a', 'libvorbis']],
    ['ac3', 'audio/vnd.dolby.dd-raw', 'ac3', []],
    ['wma', 'audio/x-ms-asf', 'wmav2', []],
  ])('reads the sound of a .%s file', async (extension, detectedType, codec, args) => {
    const file = await process(await record(extension, [...tone(), ...args]), `a.${extension}`);
    expect(file).toMatchObject({ status: 'completed', detectedType });
    expect(file.warnings.filter(({ step }) => step !== 'sniff')).toEqual([]);
    const sampleRate = codec === 'opus' ? 48_000 : 44_100;
    expect(file.metadata.audio).toMatchObject({ codec, sampleRate });
    expect(file.metadata.audio.durationSeconds).toBeCloseTo(3, 0);
    expect(file.metadata.video).toBeUndefined();
    expect(namesOf(file)).toEqual(['waveform']);
    const { peaks, durationSeconds } = await waveformOf(file);
    expect(peaks.length).toBeLessThanOrEqual(1000);
    expect(durationSeconds).toBeCloseTo(3, 0);
  });

  it.each(['wav', 'flac'])('shows in the waveform of a .%s file how loud each part is', async (extension) => {
    // The left channel is silent first, and then the opposite of the right one: their sum is silent.
    const filter = "aevalsrc='-0.5*sin(880*PI*t)*gt(t\\,2)|0.5*sin(880*PI*t)*gt(t\\,1)':d=4:s=44100";
    const file = await process(await record(extension, ['-f', 'lavfi', '-i', filter]), `a.${extension}`);
    const { peaks, loudest } = await waveformOf(file);
    expect(loudest).toBeCloseTo(0.5, 2);
    const quarter = (index: number) => peaks.slice(index * 250 + 2, index * 250 + 248);
    expect(Math.max(...quarter(0))).toBe(0);
    for (const index of [1, 2, 3]) expect(Math.max(...quarter(index))).toBeGreaterThan(0.98);
  });

  it('reads the facts of a video, and makes a poster and a silent clip', async () => {
    const video = await record('mp4', [...picture('640x480', 8), ...tone(8), ...TAGS]);
    const file = await process(video, 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'video/mp4', warnings: [] });
    expect(file.metadata.video).toMatchObject({
      codec: 'h264',
      width: 640,
      height: 480,
      rotation: 0,
      frameRate: 25,
      audioTracks: [{ codec: 'aac', sampleRate: 44_100, channels: 1 }],
    });
    expect(file.metadata.video.durationSeconds).toBeCloseTo(8, 1);
    expect(file.metadata.tags).toMatchObject({ title: 'Möwen', artist: 'Ada' });
    const large = await bytesOf(`/api/files/${file.id}/thumbnails/large`);
    expect(await sharp(large).metadata()).toMatchObject({ format: 'webp', width: 640, height: 480 });
    expect(file.derived).toMatchObject([
      { name: 'preview', contentType: 'video/mp4', width: 480, height: 360 },
    ]);
    const clip = await inspect(await bytesOf(`/api/files/${file.id}/derived/preview`));
    expect(clip.streams).toMatchObject([{ codec_name: 'h264', pix_fmt: 'yuv420p', width: 480, height: 360 }]);
    expect(Number(clip.format.duration)).toBeCloseTo(5, 0);
    expect(clip.format.tags).not.toHaveProperty('title');
  });

  it('shows a video as it is meant to be turned', async () => {
    const file = await process(turn(await record('mp4', picture('320x240'))), 'a.mp4');
    expect(file.metadata.video).toMatchObject({ width: 240, height: 320, rotation: 90 });
    const large = await bytesOf(`/api/files/${file.id}/thumbnails/large`);
    expect(await sharp(large).metadata()).toMatchObject({ width: 240, height: 320 });
    expect(file.derived).toMatchObject([{ name: 'preview', width: 240, height: 320 }]);
  });

  it('chooses a poster that is not black', async () => {
    const filter = "color=white:s=320x240:r=25:d=10,drawbox=c=black:t=fill:enable='lt(t,1.2)'";
    const file = await process(await record('mp4', ['-f', 'lavfi', '-i', filter]), 'a.mp4');
    expect(await brightness(file)).toBeGreaterThan(200);
  });

  it.each([
    ['mov', 'video/quicktime', 'h264', []],
    ['m4v', 'video/x-m4v', 'h264', []],
    ['mkv', 'video/matroska', 'h264', []],
    ['webm', 'video/webm', 'vp8', ['-c:v', 'libvpx']],
    ['avi', 'video/vnd.avi', 'mpeg4', []],
    ['mpg', 'video/MP1S', 'mpeg1video', []],
    ['ts', 'video/mp2t', 'mpeg2video', []],
    ['flv', 'video/x-flv', 'flv1', []],
    ['ogv', 'video/ogg', 'theora', []],
    ['wmv', 'video/x-ms-asf', 'msmpeg4v3', []],
  ])('reads the video of a .%s file', async (extension, detectedType, codec, args) => {
    const video = await record(extension, [...picture(), ...tone(), ...args]);
    const file = await process(video, `a.${extension}`);
    expect(file).toMatchObject({ status: 'completed', detectedType });
    expect(file.warnings.filter(({ step }) => step !== 'sniff')).toEqual([]);
    expect(file.metadata.video).toMatchObject({ codec, width: 320, height: 240 });
    expect(file.metadata.video.durationSeconds).toBeCloseTo(3, 0);
    expect(file.metadata.video.audioTracks).toHaveLength(1);
    expect(namesOf(file)).toEqual(['preview']);
    expect(Object.keys(file.links.thumbnails ?? {})).toHaveLength(3);
  });

  it('previews a video without sound', async () => {
    const file = await process(await record('mp4', picture()), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', warnings: [] });
    expect(file.metadata.video.audioTracks).toEqual([]);
    expect(namesOf(file)).toEqual(['preview']);
  });

  it('previews an MP4 file without video as sound, even if its type was taken for that of a video', async () => {
    // Longer than the sample by which the type is detected, with the header at the end.
    const file = await process(await record('mp4', tone(20)), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'video/mp4', warnings: [] });
    expect(file.metadata.audio).toMatchObject({ codec: 'aac' });
    expect(file.metadata.video).toBeUndefined();
    expect(namesOf(file)).toEqual(['waveform']);
  });

  it('previews a video of a single picture', async () => {
    const file = await process(await record('mp4', [...picture(), '-frames:v', '1']), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', warnings: [] });
    expect(namesOf(file)).toEqual(['preview']);
    expect(Object.keys(file.links.thumbnails ?? {})).toHaveLength(3);
  });

  it.each([
    ['MP4', 'mp4', [...picture(), '-t', '0', '-movflags', 'faststart']],
    ['WAV', 'wav', [...tone(), '-t', '0']],
    ['FLAC', 'flac', [...tone(), '-t', '0']],
  ])('completes an %s file of no duration', async (_name, extension, args) => {
    const file = await process(await record(extension, args), `a.${extension}`);
    expect(file.status).toBe('completed');
    expect(file.derived).toEqual([]);
    expect(file.links.thumbnails).toBeNull();
  });

  it('completes a video whose header is missing, and says so', async () => {
    const video = await record('mp4', [...picture(), ...tone()]);
    const file = await process(video.subarray(0, video.length / 2), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'video/mp4', derived: [] });
    expect(file.warnings).toMatchObject([
      { step: 'media', code: 'unreadable' },
      { step: 'preview', code: 'unreadable', detail: expect.stringContaining('moov') },
    ]);
  });

  it('completes a video that breaks off, with what could be decoded', async () => {
    const video = await record('mkv', [...picture(), ...tone()]);
    const file = await process(video.subarray(0, video.length * 0.6), 'a.mkv');
    expect(file.status).toBe('completed');
    expect(Object.keys(file.links.thumbnails ?? {})).toHaveLength(3);
  });

  it('previews a video whose header lies about the duration', async () => {
    const video = await record('mkv', picture());
    // The element Duration (RFC 9559, 5.1.2.10), a number of eight bytes.
    const at = video.indexOf(Buffer.from('448988', 'hex'));
    expect(video.readDoubleBE(at + 3)).toBeCloseTo(3000, -2);
    video.writeDoubleBE(3e9, at + 3);
    const file = await process(video, 'a.mkv');
    expect(file.metadata.video.durationSeconds).toBe(3e6);
    expect(file).toMatchObject({ status: 'completed', warnings: [] });
    const clip = await inspect(await bytesOf(`/api/files/${file.id}/derived/preview`));
    expect(Number(clip.format.duration)).toBeCloseTo(3, 0);
    expect(Object.keys(file.links.thumbnails ?? {})).toHaveLength(3);
  });

  it('does not decode a video with too many pixels', async () => {
    const file = await process(await record('mp4', picture('1280x800', 1)), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', derived: [] });
    expect(file.metadata.video).toMatchObject({ width: 1280, height: 800 });
    expect(file.warnings).toMatchObject([{ step: 'preview', code: 'too_many_pixels' }]);
    expect(file.links.thumbnails).toBeNull();
  });

  it('keeps the facts of a file whose cover is no picture', async () => {
    const cover = await makeJpeg({ width: 40, height: 40 });
    const args = [...tone(), '-i', 'cover.jpg', '-map', '0', '-map', '1', '-c:v', 'copy', ...TAGS];
    const mp3 = await record('mp3', args, { 'cover.jpg': cover });
    const at = mp3.indexOf(cover);
    expect(at).toBeGreaterThan(0);
    mp3.fill(7, at, at + cover.length);
    const file = await process(mp3, 'a.mp3');
    expect(file.metadata.tags).toMatchObject({ title: 'Möwen' });
    expect(file.warnings).toMatchObject([{ step: 'media', code: 'unreadable' }]);
    expect(namesOf(file)).toEqual(['waveform']);
  });

  it.each([
    ['a playlist', '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n'],
    ['a list of files', "ffconcat version 1.0\nfile '/etc/passwd'\n"],
  ])('takes %s with the name of a video for text', async (_name, text) => {
    const file = await process(Buffer.from(text), 'a.mp4');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'text/plain' });
    expect(file.steps.preview).toMatchObject({ state: 'skipped', reason: 'neither sound nor video' });
  });

  it('says that it makes no previews of some types', async () => {
    const midi = Buffer.from('4d546864000000060000000100604d54726b0000000400ff2f00', 'hex');
    const file = await process(midi, 'a.mid');
    expect(file).toMatchObject({ status: 'completed', detectedType: 'audio/midi', warnings: [] });
    expect(file.steps).toMatchObject({ media: { state: 'skipped' }, preview: { state: 'skipped' } });
  });

  it('leaves no folder behind', async () => {
    expect(await readdir(join(processes.dataDir, 'work'))).toEqual([]);
  });

  it('tells the version of ffmpeg to admins', async () => {
    const { libraries } = await user.get('/health/detailed');
    expect(libraries.ffmpeg).toMatch(/^\S+$/);
  });
});

describe('without ffmpeg on the PATH', () => {
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'landfall-no-programs-'));
    processes = await startProcesses({ PATH: folder });
    user = await registerUser(() => processes.url);
  });

  afterAll(async () => {
    await processes?.close();
    await rm(folder, { recursive: true, force: true });
  });

  const MISSING = { state: 'skipped', reason: 'not available: ffmpeg is not installed' };

  it.each([
    ['mp4', []],
    ['mov', []],
    ['mkv', []],
    ['webm', ['-c:v', 'libvpx']],
  ])('reads duration and dimensions of a .%s file', async (extension, args) => {
    const file = await process(await record(extension, [...picture(), ...tone(), ...args]), `a.${extension}`);
    expect(file).toMatchObject({ status: 'completed', warnings: [], derived: [] });
    expect(file.metadata.video).toMatchObject({ width: 320, height: 240 });
    expect(file.metadata.video.durationSeconds).toBeCloseTo(3, 1);
    expect(file.metadata.video.codec).toBe(extension === 'webm' ? 'vp8' : 'h264');
    expect(file.steps).toMatchObject({ media: { state: 'done' }, preview: MISSING });
  });

  it('reads how a video is turned', async () => {
    const file = await process(turn(await record('mp4', picture())), 'a.mp4');
    expect(file.metadata.video).toMatchObject({ width: 240, height: 320, rotation: 90 });
  });

  it('reads tags and facts of sound', async () => {
    const file = await process(await record('flac', [...tone(), ...TAGS]), 'a.flac');
    expect(file).toMatchObject({ status: 'completed', warnings: [], derived: [] });
    expect(file.metadata.tags).toMatchObject({ title: 'Möwen', artist: 'Ada', album: 'Meer' });
    expect(file.metadata.audio).toMatchObject({ codec: 'flac', sampleRate: 44_100, channels: 1 });
    expect(file.steps).toMatchObject({ media: { state: 'done' }, preview: MISSING });
  });

  it.each(['pcm_u8', 'pcm_s16le', 'pcm_s24le', 'pcm_s32le', 'pcm_f32le', 'pcm_f64le'])(
    'makes the waveform of a WAV file with %s',
    async (codec) => {
      const file = await process(await record('wav', [...tone(), '-c:a', codec]), 'a.wav');
      expect(file).toMatchObject({ status: 'completed', warnings: [] });
      const { peaks, loudest, durationSeconds } = await waveformOf(file);
      expect(peaks).toHaveLength(1000);
      expect(loudest).toBeCloseTo(1 / 8, 1);
      expect(durationSeconds).toBe(3);
    },
  );

  it('does not make the waveform of compressed sound in a WAV file', async () => {
    const file = await process(await record('wav', [...tone(), '-c:a', 'adpcm_ms']), 'a.wav');
    expect(file).toMatchObject({ status: 'completed', warnings: [], derived: [] });
    expect(file.steps).toMatchObject({ media: { state: 'done' }, preview: MISSING });
  });

  it('tells admins that it is not there', async () => {
    expect((await user.get('/health/detailed')).libraries.ffmpeg).toBeNull();
  });
});
