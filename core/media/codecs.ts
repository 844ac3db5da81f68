/** Names by which programs and containers call codecs, and the short name that we use: as ffmpeg's, but `pcm` for all PCM. */
const CODECS: [RegExp, string][] = [
  [/layer 3/, 'mp3'],
  [/layer 2/, 'mp2'],
  [/^pcm/, 'pcm'],
  [/aac|^mp4a$/, 'aac'],
  [/^vorbis/, 'vorbis'],
  [/^ac-3$/, 'ac3'],
  [/^avc[1-4]$|iso\/avc$/, 'h264'],
  [/^(hev1|hvc1)$|iso\/hevc$/, 'hevc'],
  [/^av01$/, 'av1'],
  [/^vp08$/, 'vp8'],
  [/^vp09$/, 'vp9'],
  [/^mp4v$|iso\/(sp|asp)$/, 'mpeg4'],
  [/^(jpeg|mjpa)$/, 'mjpeg'],
];

/** @param name such as `MPEG 1 Layer 3`, `avc1`, `pcm_s16le` @returns such as `mp3`; a name without a rule in lower case */
export function codecName(name: string | undefined): string | undefined {
  const bare = name
    ?.toLowerCase()
    .replace(/[<>\0]/g, '')
    .trim();
  return CODECS.find(([pattern]) => pattern.test(bare ?? ''))?.[1] ?? (bare || undefined);
}
