import { AppError } from '../errors.js';

/** A type such as `application/pdf`, or a range of types such as `image/*`, in lower case. */
export const MEDIA_RANGE = /^[a-z]+\/(\*|[a-z0-9][a-z0-9!#$&^_.+-]{0,126})$/;

/** The range of the types that the steps for images take. */
export const IMAGES = 'image/*';

/** The ranges of the types that the steps for sound and video take. */
export const MEDIA = ['audio/*', 'video/*'];

/**
 * Whether a media type is among those that are allowed.
 * @param type such as `image/png; charset=x`
 * @param allowed such as `image/*`, `application/pdf`
 */
export function isAllowedType(type: string, allowed: string[]): boolean {
  const [essence = ''] = type.toLowerCase().split(';');
  const bare = essence.trim();
  return allowed.some((one) => one === bare || (one.endsWith('/*') && bare.startsWith(one.slice(0, -1))));
}

/** The error that names the allowed types. @param found the recognised type, if it is not the declared one */
export function typeNotAllowed(allowed: string[], found?: string): AppError {
  const but = found === undefined ? '' : `, and the content is ${found}`;
  return new AppError('type_not_allowed', {
    detail: `Only these types are taken here: ${allowed.join(', ')}${but}`,
  });
}
