import type { Block } from "../retrieval/index.ts";

/** What kind of file it is by its content. */
export type FileKind =
  | ("text" | "markdown" | "code" | "html" | "json" | "csv")
  | ("pdf" | "docx" | "xlsx" | "sqlite")
  | ("image" | "audio");

/** What was read of a file. */
export interface Extracted {
  readonly blocks: readonly Block[];
  /** Pages, of a file that has them. */
  readonly pages?: number;
  readonly title?: string | undefined;
  /** What was left out or looks wrong: a sentence each. */
  readonly notes: readonly string[];
  /** Facts by the kind of file: width and height of a picture, seconds of a sound, columns of a table. */
  readonly facts?: Readonly<Record<string, unknown>>;
}

/** A file that cannot be read: why, and what to do, for the person who gave it. */
export class Unreadable extends Error {
  constructor(reason: string) {
    // Parsers' own words may have several lines.
    super(reason.split("\n")[0].slice(0, 300));
  }
}

/** Loads a parser that may not be installed. @throws Unreadable that names the package. */
export async function parser<T>(packages: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    const { code } = error as { code?: string };
    if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") throw error;
    throw new Unreadable(`files of this kind need ${packages}: npm install ${packages}`);
  }
}
