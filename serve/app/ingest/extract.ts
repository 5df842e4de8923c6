import { firstLine } from "../../../core/platform/files.ts";
import { decodeText } from "./decode.ts";
import { type Extracted, type FileKind, Unreadable } from "./extracted.ts";
import { markdown, paragraphs } from "./prose.ts";
import { kindOf } from "./sniff.ts";

/** What `extract` gives: the kind too, and how text was encoded. */
export interface Read extends Extracted {
  readonly kind: FileKind;
  readonly encoding?: string;
}

const ofText: Partial<Record<FileKind, (text: string) => Extracted | Promise<Extracted>>> = {
  text: (text) => ({ blocks: paragraphs(text), notes: [] }),
  markdown: (text) => ({ blocks: markdown(text), notes: [] }),
  code: (text) => ({
    blocks: text.trim() === "" ? [] : [{ text: text.replaceAll("\r\n", "\n"), kind: "code" }],
    notes: [],
  }),
  html: async (text) => (await import("./html.ts")).html(text),
  json: async (text) => (await import("./json.ts")).json(text),
  csv: async (text) => (await import("./sheet.ts")).csv(text),
};

/** Each parser is loaded when its first file comes. */
const ofBytes: Partial<Record<FileKind, (bytes: Uint8Array) => Promise<Extracted>>> = {
  pdf: async (bytes) => {
    const [{ pdf }, { readPicture }] = await Promise.all([import("./pdf.ts"), import("./image.ts")]);
    return pdf(bytes, readPicture);
  },
  docx: async (bytes) => (await import("./docx.ts")).docx(bytes),
  xlsx: async (bytes) => (await import("./sheet.ts")).xlsx(bytes),
  sqlite: async (bytes) => (await import("./sqlite_file.ts")).sqliteFile(bytes),
  image: async (bytes) => (await import("./image.ts")).image(bytes),
  audio: async (bytes) => (await import("./audio.ts")).audio(bytes),
};

/**
 * Reads a file by its content. The name decides only between kinds of text.
 *
 * @throws Unreadable with a sentence for the person who gave it
 */
export async function extract(bytes: Uint8Array, name: string): Promise<Read> {
  try {
    return await read(bytes, name);
  } catch (error) {
    // Parsers fail in their own ways at what they did not expect.
    throw error instanceof Unreadable ? error : new Unreadable(`the file is damaged: ${firstLine(error)}`);
  }
}

async function read(bytes: Uint8Array, name: string): Promise<Read> {
  let decoded: ReturnType<typeof decodeText> | undefined;
  const text = () => {
    if (decoded === undefined) decoded = decodeText(bytes);
    return decoded?.text ?? null;
  };
  const kind = kindOf(bytes, name, text);
  const found = ofText[kind] ? await ofText[kind](text()!) : await ofBytes[kind]!(bytes);
  const hasWords = found.blocks.some((block) => /[\p{L}\p{N}]/u.test(block.text));
  if (!hasWords && kind !== "image" && kind !== "audio")
    throw new Unreadable(["the file has no words in it", ...found.notes].join("; "));
  return { ...found, kind, ...(decoded && ofText[kind] ? { encoding: decoded.encoding } : {}) };
}
