import {
  type CompleteSettings,
  canBeOptimized,
  completeSettings,
  type ImageSettings,
  problemsOfSettings,
} from './image-settings.js';
import { isAllowedType, MEDIA_RANGE } from './media-types.js';

/* The settings for types, which the variable OPTIMIZE has. */

/** The settings for one type, or for a range of types. */
export interface TypeSettings {
  /** Such as `image/*`, `image/png`. */
  type: string;
  /** Null: images of this type are not optimised unless their upload asks for it. */
  settings: ImageSettings | null;
}

/**
 * The settings by which an image is optimised: those of its type, and above them those of its upload.
 * @param type that was recognised from the bytes
 * @param own of the upload; null: none
 * @returns undefined: nothing asks for it, or it is no image that can be optimised
 */
export function settingsFor(
  byType: readonly TypeSettings[],
  type: string,
  own: ImageSettings | null,
): CompleteSettings | undefined {
  if (!canBeOptimized(type)) return undefined;
  const ofType = findTypeSettings(byType, type);
  return ofType || own ? completeSettings(type, ofType, own) : undefined;
}

/** The settings of the type itself, or else those of its range. */
export function findTypeSettings(byType: readonly TypeSettings[], type: string): ImageSettings | null {
  const fitting = byType.filter((one) => isAllowedType(type, [one.type]));
  const [found] = fitting.toSorted((a, b) => Number(a.type.endsWith('/*')) - Number(b.type.endsWith('/*')));
  return found?.settings ?? null;
}

/**
 * Reads the value of OPTIMIZE: `off`, or types with settings, such as `image/*=quality:80;image/png=format:webp`.
 * @throws {Error} saying what is wrong
 */
export function parseTypeSettings(text: string): TypeSettings[] {
  if (text.trim() === 'off') return [];
  const all = text.split(';').map((one) => parseOne(one.trim()));
  const types = all.map(({ type }) => type);
  const twice = types.find((type, index) => types.indexOf(type) !== index);
  if (twice) throw new Error(`names ${twice} twice`);
  return all;
}

function parseOne(text: string): TypeSettings {
  const [, name = text, list] = /^([^=]*?)\s*=\s*(.*)$/.exec(text) ?? [];
  const type = name.toLowerCase();
  if (!MEDIA_RANGE.test(type) || !(type === 'image/*' || canBeOptimized(type))) {
    throw new Error(
      'must be off, or types of images with settings, such as image/*=quality:80;image/png=format:webp',
    );
  }
  if (list === 'off') return { type, settings: null };
  const settings = Object.fromEntries((list ?? '').split(',').filter(Boolean).map(parsePair));
  const [problem] = problemsOfSettings(settings);
  if (problem) throw new Error(`${type}: ${problem.field} ${problem.message}`);
  return { type, settings };
}

function parsePair(pair: string): [name: string, value: unknown] {
  const [, name = pair.trim(), value = ''] = /^\s*(\w+)\s*:\s*(.*?)\s*$/.exec(pair) ?? [];
  if (/^\d+$/.test(value)) return [name, Number(value)];
  return [name, value === 'true' ? true : value === 'false' ? false : value];
}
