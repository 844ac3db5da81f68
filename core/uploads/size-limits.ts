import { AppError } from '../errors.js';
import { contentTypes, nameOf, UNTOLD } from '../media/allowed.js';
import { isAllowedType } from '../media/media-types.js';
import type { Detected } from '../media/types.js';

/*
 * How large one upload may be: at most MAX_UPLOAD_SIZE, and less for some types of files. A file has to keep two limits.
 * That of its declared type holds from the creation of the upload on, whatever the protocol. That of its real type is
 * known when all bytes are here: the worker looks it up when it has recognised the type.
 */

/** The limit for one type, or for a range of types. */
export interface TypeLimit {
  /** Such as `image/*`, `application/pdf`. */
  type: string;
  /** Bytes. */
  maxSize: number;
}

export interface SizeLimits {
  /** Bytes; for every file. */
  maxUploadSize: number;
  /** No type is named twice. */
  maxSizeByType: readonly TypeLimit[];
}

/**
 * The limit for a type: that of the type itself, or else that of its range.
 * @param type null: not known; then the limit of `application/octet-stream`
 * @returns undefined: only the limit for every file holds
 */
export function findTypeLimit(
  { maxSizeByType }: Pick<SizeLimits, 'maxSizeByType'>,
  type: string | null,
): TypeLimit | undefined {
  const name = nameOf(type || UNTOLD);
  const limits = maxSizeByType.filter((one) => isAllowedType(name, [nameOf(one.type)]));
  return limits.find((one) => !one.type.endsWith('/*')) ?? limits[0];
}

/**
 * tus: "If the length of the upload exceeds the maximum, which MAY be specified using the Tus-Max-Size header, the Server
 * MUST respond with the 413 Request Entity Too Large status."
 * @param length bytes
 * @throws {AppError} too_large
 */
export function requireAllowedLength(limits: SizeLimits, length: number, declaredType: string | null): void {
  const { maxUploadSize } = limits;
  if (length > maxUploadSize) {
    throw new AppError('too_large', { detail: `At most ${maxUploadSize} bytes are taken` });
  }
  const limit = findTypeLimit(limits, declaredType);
  if (limit && length > limit.maxSize) throw tooLarge(limit);
}

/**
 * The error for a file whose bytes are of a type that has a lower limit than its size.
 * @param file `size` in bytes
 * @param detected the type that was recognised from the bytes; null: none was
 * @returns undefined: the file keeps the limits
 */
export function sizeError(
  limits: Pick<SizeLimits, 'maxSizeByType'>,
  { size, declaredType }: { size: number; declaredType: string | null },
  detected: Detected | null,
): AppError | undefined {
  const broken = contentTypes(declaredType, detected)
    .map((type) => findTypeLimit(limits, type))
    .find((limit) => limit && size > limit.maxSize);
  return broken && tooLarge(broken, size);
}

function tooLarge({ type, maxSize }: TypeLimit, size?: number): AppError {
  const but = size === undefined ? '' : `; the content is of this type and has ${size}`;
  return new AppError('too_large', { detail: `At most ${maxSize} bytes of ${type} are taken${but}` });
}
