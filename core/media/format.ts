/** A format of files. */
export interface Format {
  /** Media type. */
  mime: string;
  /** Without a dot. */
  ext: string;
}

/** What is kept of a file to find out what it is. */
export interface Bytes {
  /** The first bytes. */
  head: Uint8Array;
  /** The last bytes; may be the same ones. */
  tail: Uint8Array;
  /** Bytes in all. */
  size: number;
}
