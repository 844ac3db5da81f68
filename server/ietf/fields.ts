/*
 * The structured fields (RFC 9651) that requests use: items that are a Boolean, an Integer or a String, and dictionaries of
 * Byte Sequences. Parameters of items are read over, because no field here defines one.
 */

/** RFC 9651, 3.1.2: parameters, whose values may be anything here. */
const PARAMETERS = '(?:;[ ]*[a-z*][\\w.*-]*(?:=(?:"(?:[ !#-\\[\\]-~]|\\\\["\\\\])*"|[^\\s;,"]+))?)*';

const BOOLEAN = new RegExp(`^\\?([01])${PARAMETERS}$`);

/** RFC 9651, 3.3.1: "Integers have a range of -999,999,999,999,999 to 999,999,999,999,999 inclusive". */
const WHOLE_NUMBER = new RegExp(`^(\\d{1,15})${PARAMETERS}$`);

/** RFC 9651, 3.3.3: printable ASCII; a backslash stands before a quote or a backslash. */
export const STRING_CHARACTER = '(?:[ !#-\\[\\]-~]|\\\\["\\\\])';
const STRING = new RegExp(`^"(${STRING_CHARACTER}*)"${PARAMETERS}$`);

const KEY = /^[a-z*][a-z0-9_.*-]*/;

const BYTES = new RegExp(`^:([A-Za-z0-9+/]*={0,2}):${PARAMETERS}`);

const OTHER_VALUE = new RegExp(`^(?:[^\\s,;":()]+)${PARAMETERS}`);

/** @returns undefined for any other value: "Other values MUST cause the entire header field to be ignored." */
export function parseBoolean(field: string | undefined): boolean | undefined {
  const [, digit] = BOOLEAN.exec(field?.trim() ?? '') ?? [];
  return digit === undefined ? undefined : digit === '1';
}

/** @returns undefined for any other value, and for a negative one */
export function parseWholeNumber(field: string | undefined): number | undefined {
  const [, digits] = WHOLE_NUMBER.exec(field?.trim() ?? '') ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** @returns undefined for any other value */
export function parseString(field: string): string | undefined {
  const [, text] = STRING.exec(field.trim()) ?? [];
  return text?.replaceAll(/\\(.)/g, '$1');
}

/**
 * Parses a dictionary. Of members with the same key the last one counts (RFC 9651, 4.2.2).
 * @returns the members by key: bytes, or the text of any other item; undefined if the field is no such dictionary
 */
export function parseDictionary(field: string): Map<string, Buffer | string> | undefined {
  const members = new Map<string, Buffer | string>();
  let rest = field.trim();
  while (rest !== '') {
    const [key] = KEY.exec(rest) ?? [];
    if (key === undefined) return undefined;
    rest = rest.slice(key.length);
    if (rest.startsWith('=')) {
      rest = rest.slice(1);
      const [bytes, base64] = BYTES.exec(rest) ?? [];
      const [value] = bytes === undefined ? (OTHER_VALUE.exec(rest) ?? []) : [bytes];
      if (value === undefined) return undefined;
      members.set(key, base64 === undefined ? value : Buffer.from(base64, 'base64'));
      rest = rest.slice(value.length);
    } else {
      members.set(key, '?1');
    }
    rest = rest.replace(/^[ \t]+/, '');
    if (rest === '') break;
    if (!rest.startsWith(',')) return undefined;
    rest = rest.slice(1).replace(/^[ \t]+/, '');
    // A comma at the end.
    if (rest === '') return undefined;
  }
  return members;
}

export function writeBoolean(value: boolean): string {
  return value ? '?1' : '?0';
}

/** A dictionary with one member, which is bytes. */
export function writeDigest(algorithm: string, digest: Buffer): string {
  return `${algorithm}=:${digest.toString('base64')}:`;
}
