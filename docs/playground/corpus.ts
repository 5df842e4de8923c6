import { KilnError } from "kiln";
import type { Tokenizer } from "kiln/tokenizer";
import { type Span, storyCorpus, type TokenReader } from "kiln/train";
import type { CorpusInfo } from "./protocol.ts";

/** Fewer characters than this teach nothing but themselves. */
const leastCharacters = 2000;
/** The text is in memory as it is and as tokens. */
const mostBytes = 30e6;
const stories = 600;
/** Characters that the tokenizer takes at once: it works in one go, and nobody hears of the run meanwhile. */
const pieceCharacters = 2 ** 16;

/** What to learn from: the built-in stories where `files` is empty. */
export interface Corpus {
  files: readonly { name: string; text: string }[];
}

/** The texts of files. @throws KilnError for what is no text, too little or too much, with how to mend it */
export async function readCorpus(
  files: readonly Pick<File, "name" | "size" | "arrayBuffer">[],
): Promise<Corpus> {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  if (total > mostBytes)
    throw new KilnError(
      `the files have ${mega(total)}, more than a page can hold: give at most ${mega(mostBytes)}, or train with the kiln command.`,
    );
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const texts: { name: string; text: string }[] = [];
  for (const file of files) {
    try {
      texts.push({ name: file.name, text: decoder.decode(await file.arrayBuffer()) });
    } catch (cause) {
      throw notText(file.name, cause);
    }
    if (texts.at(-1)!.text.includes("\0")) throw notText(file.name);
  }
  const characters = texts.reduce((sum, { text }) => sum + text.trim().length, 0);
  if (files.length > 0 && characters < leastCharacters)
    throw new KilnError(
      `${nameOf({ files: texts })} has ${count(characters)} characters, too few to learn from: give at least ${count(leastCharacters)}, about a page.`,
    );
  return { files: texts };
}

const mega = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`;
const count = (value: number) => value.toLocaleString("en");
const notText = (name: string, cause?: unknown) =>
  new KilnError(`${name} is no UTF-8 text: save it as plain text (UTF-8) and drop it again.`, { cause });

/** How much a corpus holds. */
export function infoOf(corpus: Corpus): CorpusInfo {
  const info = { name: nameOf(corpus), words: 0, characters: 0 };
  for (const text of documentsOf(corpus)) {
    info.characters += text.length;
    info.words += text.match(/\S+/g)?.length ?? 0;
  }
  return info;
}

/** The documents of a corpus; the built-in stories where it has no files. */
export function documentsOf({ files }: Corpus): string[] {
  return files.length > 0 ? files.map(({ text }) => text) : [...storyCorpus({ seed: 1, stories })];
}

/** What a person calls a corpus. */
export function nameOf({ files }: Corpus): string {
  if (files.length === 0) return `${stories} built-in stories`;
  return files.length === 1 ? files[0].name : `${files.length} files`;
}

/** A corpus as tokens in memory. */
export interface Tokens extends TokenReader {
  documents: Span[];
}

/** Begin, text and end of each document as ids, as `kiln train pretrain` lays them out. */
export async function encode(
  documents: readonly string[],
  tokenizer: Tokenizer,
  say: (share: number) => void = () => {},
): Promise<Tokens> {
  const ids: number[] = [];
  const spans: Span[] = [];
  const total = documents.reduce((sum, text) => sum + text.length, 0);
  let done = 0;
  for (const text of documents) {
    const start = ids.length;
    if (tokenizer.bosId !== null) ids.push(tokenizer.bosId);
    for (let rest = text; rest !== ""; ) {
      const [piece, next] = await cut(rest, tokenizer);
      for (const id of piece) ids.push(id);
      done += rest.length - next.length;
      rest = next;
      say(done / total);
    }
    if (tokenizer.eosId !== null) ids.push(tokenizer.eosId);
    spans.push({ start, length: ids.length - start, bytes: new TextEncoder().encode(text).length });
  }
  return memoryTokens(Int32Array.from(ids), spans);
}

/** The ids of the beginning of a text, and the rest of it. Names of special tokens in a text are plain text. */
async function cut(text: string, tokenizer: Tokenizer): Promise<[number[], string]> {
  const options = { addSpecialTokens: false, parseSpecialTokens: false };
  if (text.length <= pieceCharacters) return [await tokenizer.encode(text, options), ""];
  const { end, next } = await tokenizer.cut(text, pieceCharacters, options);
  return [await tokenizer.encode(text.slice(0, end), options), text.slice(next)];
}

function memoryTokens(ids: Int32Array, documents: Span[]): Tokens {
  return {
    documents,
    read: (start, count, out, at = 0) => out.set(ids.subarray(start, start + count), at),
  };
}
