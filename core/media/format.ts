/** A format of files. */
export interface Format {
  /** Media type. */
  mime: string;
  /** Without a dot. */
  ext: string;
}

/** The sample of a file by which its type is detected. */
export interface Bytes {
  /** The first bytes. */
  head: Uint8Array;
  /** The last bytes; may overlap the first bytes. */
  tail: Uint8Array;
  /** Bytes of the whole file. */
  size: number;
}
