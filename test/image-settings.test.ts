import {
  completeSettings,
  type ImageSettings,
  parseSettings,
  problemsOfSettings,
} from '../core/media/image-settings.js';
import { parseTypeSettings, settingsFor } from '../core/media/optimized-types.js';

/* The settings by which images are optimised: their values, their defaults, and the variable OPTIMIZE. */

describe('the check of settings', () => {
  test.each<[object]>([
    [{}],
    [{ quality: 1 }],
    [{ quality: 100, maxWidth: 16_383, maxHeight: 1, fit: 'cover', format: 'avif', metadata: 'strip-gps' }],
    [{ maxWidth: null, maxHeight: null, fit: 'inside', lossless: false, format: 'jpeg' }],
    [{ lossless: true, format: 'keep' }],
  ])('takes %j', (settings) => {
    expect(problemsOfSettings(settings)).toEqual([]);
    expect(parseSettings(JSON.stringify(settings))).toEqual(settings);
  });

  test.each<[unknown, string, RegExp]>([
    [{ quality: 0 }, 'quality', /from 1 to 100/],
    [{ quality: 101 }, 'quality', /from 1 to 100/],
    [{ quality: 80.5 }, 'quality', /from 1 to 100/],
    [{ quality: '80' }, 'quality', /from 1 to 100/],
    [{ quality: null }, 'quality', /from 1 to 100/],
    [{ maxWidth: 16_384 }, 'maxWidth', /from 1 to 16383/],
    [{ maxHeight: 0 }, 'maxHeight', /from 1 to 16383/],
    [{ maxHeight: 1e300 }, 'maxHeight', /from 1 to 16383/],
    [{ fit: 'crop' }, 'fit', /inside, cover, contain, fill, outside/],
    [{ fit: 'cover' }, 'fit', /only with maxWidth and maxHeight/],
    [{ fit: 'fill', maxWidth: 100, maxHeight: null }, 'fit', /only with maxWidth and maxHeight/],
    [{ format: 'gif' }, 'format', /keep, jpeg, png, webp, avif/],
    [{ metadata: true }, 'metadata', /strip, keep, strip-gps/],
    [{ lossless: 'yes' }, 'lossless', /true or false/],
    [{ lossless: true, format: 'jpeg' }, 'lossless', /keep, png, webp or avif/],
    [{ colour: 1 }, 'colour', /quality, maxWidth, maxHeight, fit, format, metadata, lossless/],
    [{ '\u202e\n': 1 }, '(an odd name)', /is no setting/],
    [[], '', /must be an object/],
    ['x', '', /must be an object/],
  ])('refuses %j', (settings, field, message) => {
    const problems = problemsOfSettings(settings);
    expect(problems.map((one) => one.field)).toEqual([field]);
    expect(problems[0]?.message).toMatch(message);
    expect(() => parseSettings(JSON.stringify(settings))).toThrow(message);
  });

  test('names every wrong field at once', () => {
    const settings = '{"quality":0,"fit":"x","a":1,"b":2}';
    expect(() => parseSettings(settings)).toThrow(
      /^settings: quality must.*; fit must.*; a is no.*; b is no/,
    );
  });

  test('refuses what is no JSON, and takes null for nothing', () => {
    for (const text of ['', ' ', '{', 'quality=80', 'undefined']) {
      expect(() => parseSettings(text)).toThrow(/must be JSON/);
    }
    expect(parseSettings('null')).toBeNull();
    expect(parseSettings('{\n\t"quality": 80\n}')).toEqual({ quality: 80 });
  });

  test('is not misled by the keys that every object has', () => {
    expect(problemsOfSettings(JSON.parse('{"__proto__":{"quality":1}}'))).toHaveLength(1);
    expect(problemsOfSettings({ constructor: 1 })).toHaveLength(1);
  });
});

describe('settings are completed', () => {
  const complete = (type: string, ...given: ImageSettings[]) => completeSettings(type, ...given);

  test.each([
    ['image/jpeg', 80],
    ['image/png', 100],
    ['image/webp', 80],
    ['image/avif', 60],
    ['image/gif', 100],
    ['image/tiff', 100],
  ])('of %s with quality %i', (type, quality) => {
    expect(complete(type)).toEqual({
      quality,
      maxWidth: null,
      maxHeight: null,
      fit: 'inside',
      format: 'keep',
      metadata: 'strip',
      lossless: false,
    });
  });

  test('with the quality of the format of the result', () => {
    expect(complete('image/png', { format: 'webp' }).quality).toBe(80);
    expect(complete('image/png', { format: 'webp' }, { quality: 30 }).quality).toBe(30);
  });

  test('where the later ones count', () => {
    const ofType: ImageSettings = {
      quality: 70,
      maxWidth: 100,
      maxHeight: 100,
      fit: 'cover',
      lossless: true,
    };
    expect(complete('image/webp', ofType, { quality: 50, maxWidth: 200 })).toMatchObject({
      quality: 50,
      maxWidth: 200,
      maxHeight: 100,
      fit: 'cover',
      lossless: true,
    });
    // Later ones may make earlier ones impossible.
    expect(complete('image/webp', ofType, { maxWidth: null })).toMatchObject({
      maxWidth: null,
      fit: 'inside',
    });
    expect(complete('image/webp', ofType, { format: 'jpeg' })).toMatchObject({ lossless: false });
  });

  test('are always valid themselves', () => {
    for (const given of [
      {},
      { fit: 'cover', maxWidth: 1, maxHeight: 2 },
      { format: 'png', lossless: true },
    ]) {
      expect(problemsOfSettings(complete('image/jpeg', given as ImageSettings))).toEqual([]);
    }
  });
});

describe('OPTIMIZE', () => {
  test.each<[string, object[]]>([
    ['off', []],
    ['image/*', [{ type: 'image/*', settings: {} }]],
    [' image/* = off ', [{ type: 'image/*', settings: null }]],
    [
      'image/jpeg=quality:80,maxWidth:2048;image/png=format:webp',
      [
        { type: 'image/jpeg', settings: { quality: 80, maxWidth: 2048 } },
        { type: 'image/png', settings: { format: 'webp' } },
      ],
    ],
    [
      'IMAGE/WebP = lossless:true , metadata:strip-gps ; image/* = ',
      [
        { type: 'image/webp', settings: { lossless: true, metadata: 'strip-gps' } },
        { type: 'image/*', settings: {} },
      ],
    ],
  ])('%j', (text, settings) => {
    expect(parseTypeSettings(text)).toEqual(settings);
  });

  test.each([
    ['on', /types of images/],
    ['', /types of images/],
    ['text/plain=quality:80', /types of images/],
    ['image/heic', /types of images/],
    ['*/*', /types of images/],
    ['image/png;image/png=off', /image\/png twice/],
    ['image/png=quality', /^image\/png: quality must be a whole number/],
    ['image/png=quality:0', /^image\/png: quality must be a whole number/],
    ['image/png=size:3', /^image\/png: size is no setting/],
    ['image/png=fit:cover', /^image\/png: fit can be cover only/],
    ['image/png=quality:80;', /types of images/],
    ['image/png=quality:80:90', /quality/],
  ])('%j is wrong', (text, message) => {
    expect(() => parseTypeSettings(text)).toThrow(message);
  });

  test('gives each image the settings of its type, or of all images, and its own above them', () => {
    const byType = parseTypeSettings('image/*=quality:50;image/png=maxWidth:10;image/gif=off');
    expect(settingsFor(byType, 'image/jpeg', null)).toMatchObject({ quality: 50, maxWidth: null });
    expect(settingsFor(byType, 'image/png', null)).toMatchObject({ quality: 100, maxWidth: 10 });
    expect(settingsFor(byType, 'image/png', { quality: 9 })).toMatchObject({ quality: 9, maxWidth: 10 });
    expect(settingsFor(byType, 'image/gif', null)).toBeUndefined();
    expect(settingsFor(byType, 'image/gif', {})).toMatchObject({ quality: 100 });
    expect(settingsFor(byType, 'image/heic', {})).toBeUndefined();
    expect(settingsFor(byType, 'text/plain', {})).toBeUndefined();
    expect(settingsFor([], 'image/jpeg', null)).toBeUndefined();
    expect(settingsFor([], 'image/jpeg', {})).toBeDefined();
  });
});
