import { byteToChar } from "./byte_alphabet.ts";
import { TokenizerError } from "./errors.ts";
import { addedToken, jsonOf, plainBpe, type TokenizerJson } from "./tokenizer_json.ts";

/** Options of `trainBpe`, named as in Hugging Face's BpeTrainer. */
export interface BpeTrainerOptions {
  /** Size of the finished vocabulary: special tokens + 256 bytes + merges. A small corpus may give fewer. */
  vocab_size: number;
  /** Tokens that get the first ids, in this order, and never take part in merges. Default: `<|endoftext|>`. */
  special_tokens?: readonly string[];
  /** Pairs that occur less often are not merged. Default 2. */
  min_frequency?: number;
  /**
   * The special token that `encode` puts before a text, so that a model can start from an empty prompt.
   * Default: the first special token; null for none.
   */
  bos_token?: string | null;
}

/**
 * How text is split before the merges: contractions, words, numbers, punctuation (each with one space before), and runs of
 * white space. It is the pattern of GPT-2, which `ByteLevel` with `use_regex` applies; Unicode white space is spelled out
 * because JavaScript's `\s` differs from it in U+0085 and U+FEFF.
 */
export const GPT2_PATTERN =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Pair keys are `left * PAIR + right`, which orders pairs as (left, right) and is exact below 2^42. */
const PAIR = 2 ** 21;

/**
 * Trains a byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) and returns the content of a `tokenizer.json`. The
 * most frequent pair of neighbours becomes a token, again and again. Of equally frequent pairs the smallest (left id, right
 * id) wins, as in Hugging Face's trainer, so the merges equal that trainer's on every machine.
 *
 * Cost: one pass over the texts to count distinct words, then each merge touches only the words that hold the pair. Errors:
 * a vocabulary too small for the bytes and the special tokens; repeated special tokens; no text at all.
 */
export function trainBpe(texts: Iterable<string>, options: BpeTrainerOptions): TokenizerJson {
  const special = options.special_tokens ?? ["<|endoftext|>"];
  checkOptions(options, special);
  const words = countWords(texts, special);
  if (words.size === 0) throw new TokenizerError("there is no text to make a tokenizer of: name some");

  const tokens = [...special, ...[...byteToChar].sort((a, b) => (a < b ? -1 : 1))];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const state = new MergeState(words, ids);
  const merges: [string, string][] = [];
  const merged = new Set<number>();
  const minFrequency = Math.max(1, options.min_frequency ?? 2);

  while (tokens.length < options.vocab_size) {
    const pair = state.popMostFrequent(minFrequency);
    if (pair === null) break;
    const left = tokens[Math.floor(pair / PAIR)];
    const right = tokens[pair % PAIR];
    const token = left + right;
    let id = ids.get(token);
    if (id === undefined) {
      id = tokens.length;
      tokens.push(token);
      ids.set(token, id);
    }
    if (!merged.has(pair)) merges.push([left, right]);
    merged.add(pair);
    state.merge(pair, id);
  }
  const bos = options.bos_token === undefined ? (special[0] ?? null) : options.bos_token;
  return tokenizerJson(tokens, special, merges, bos);
}

function checkOptions(options: BpeTrainerOptions, special: readonly string[]): void {
  const least = special.length + 256;
  if (!Number.isInteger(options.vocab_size) || options.vocab_size < least) {
    throw new TokenizerError(
      `vocab_size ${options.vocab_size} is too small: byte-level BPE needs 256 bytes and ${special.length} special tokens, so at least ${least}`,
    );
  }
  if (options.vocab_size >= PAIR) throw new TokenizerError(`vocab_size must be below ${PAIR}`);
  if (new Set(special).size !== special.length || special.some((token) => [...token].length < 2)) {
    throw new TokenizerError("special tokens must differ from each other and be longer than one character");
  }
  if (options.bos_token && !special.includes(options.bos_token)) {
    throw new TokenizerError(`bos_token ${options.bos_token} is not one of the special tokens`);
  }
}

/** Characters that are matched at once. */
const MOST = 2 ** 20;

/** Counts the words of all texts, in order of first occurrence. Special tokens are cut out, not learned. */
function countWords(texts: Iterable<string>, special: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  const escaped = special.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const cut = escaped.length > 0 ? new RegExp(escaped.join("|"), "g") : null;
  for (const text of texts) {
    for (const part of (cut === null ? [text] : text.split(cut)).flatMap(shortParts)) {
      for (const word of part.match(GPT2_PATTERN) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

/**
 * A text in parts that V8 can match: its stack ends in a run of some million letters. Cuts are before white space, where no
 * word goes on; a longer run of anything else counts as several words.
 */
function shortParts(text: string): string[] {
  const parts: string[] = [];
  let from = 0;
  while (text.length - from > MOST) {
    let end = from + MOST;
    while (end > from && !/\S\s/.test(text.slice(end - 1, end + 1))) end--;
    if (end === from) end += MOST - (text.codePointAt(from + MOST - 1)! > 0xffff ? 1 : 0);
    parts.push(text.slice(from, end));
    from = end;
  }
  return [...parts, text.slice(from)];
}

/** The words as symbol ids, how often each pair occurs, in which words, and a heap of pairs by frequency. */
class MergeState {
  readonly #words: number[][] = [];
  readonly #counts: number[] = [];
  readonly #pairCounts = new Map<number, number>();
  readonly #pairWords = new Map<number, number[]>();
  readonly #heap = new PairHeap();

  constructor(words: ReadonlyMap<string, number>, ids: ReadonlyMap<string, number>) {
    const encoder = new TextEncoder();
    const byteIds = byteToChar.map((char) => ids.get(char)!);
    for (const [word, count] of words) {
      const symbols = Array.from(encoder.encode(word), (byte) => byteIds[byte]);
      for (let i = 0; i + 1 < symbols.length; i++) {
        this.#change(symbols[i] * PAIR + symbols[i + 1], count, this.#words.length);
      }
      this.#words.push(symbols);
      this.#counts.push(count);
    }
    for (const [pair, count] of this.#pairCounts) this.#heap.push(count, pair);
  }

  /** The pair with the highest count, or null when none occurs `minFrequency` times. */
  popMostFrequent(minFrequency: number): number | null {
    for (;;) {
      const top = this.#heap.pop();
      if (top === null || top.count < minFrequency) return null;
      const count = this.#pairCounts.get(top.pair) ?? 0;
      // Counts that fell since the push are corrected here, when they matter, not at every change.
      if (count === top.count) return top.pair;
      if (count > 0 && count < top.count) this.#heap.push(count, top.pair);
    }
  }

  /** Replaces every occurrence of `pair` by `id`, left to right, and updates the counts around it. */
  merge(pair: number, id: number): void {
    const grown = new Set<number>();
    for (const word of this.#pairWords.get(pair) ?? []) this.#mergeWord(word, pair, id, grown);
    this.#pairCounts.delete(pair);
    this.#pairWords.delete(pair);
    grown.delete(pair);
    for (const changed of grown) {
      const count = this.#pairCounts.get(changed) ?? 0;
      if (count > 0) this.#heap.push(count, changed);
    }
  }

  #mergeWord(word: number, pair: number, id: number, grown: Set<number>): void {
    const symbols = this.#words[word];
    const count = this.#counts[word];
    const left = Math.floor(pair / PAIR);
    const right = pair % PAIR;
    let write = 0;
    for (let read = 0; read < symbols.length; read++) {
      if (symbols[read] !== left || symbols[read + 1] !== right) {
        symbols[write++] = symbols[read];
        continue;
      }
      if (write > 0) {
        const before = symbols[write - 1];
        this.#change(before * PAIR + left, -count, word);
        this.#change(before * PAIR + id, count, word);
        grown.add(before * PAIR + id);
      }
      if (read + 2 < symbols.length) {
        const after = symbols[read + 2];
        this.#change(right * PAIR + after, -count, word);
        this.#change(id * PAIR + after, count, word);
        grown.add(id * PAIR + after);
      }
      symbols[write++] = id;
      read++;
    }
    symbols.length = write;
  }

  #change(pair: number, by: number, word: number): void {
    this.#pairCounts.set(pair, (this.#pairCounts.get(pair) ?? 0) + by);
    if (by < 0) return;
    const list = this.#pairWords.get(pair);
    if (list === undefined) this.#pairWords.set(pair, [word]);
    else if (list[list.length - 1] !== word) list.push(word);
  }
}

/** A binary heap of (count, pair): highest count first, then the smallest pair. */
class PairHeap {
  readonly #counts: number[] = [];
  readonly #pairs: number[] = [];

  push(count: number, pair: number): void {
    let at = this.#counts.length;
    this.#counts.push(count);
    this.#pairs.push(pair);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(at, parent)) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  pop(): { count: number; pair: number } | null {
    if (this.#counts.length === 0) return null;
    const top = { count: this.#counts[0], pair: this.#pairs[0] };
    this.#swap(0, this.#counts.length - 1);
    this.#counts.pop();
    this.#pairs.pop();
    const size = this.#counts.length;
    for (let at = 0; ; ) {
      let first = at;
      for (const child of [2 * at + 1, 2 * at + 2]) {
        if (child < size && this.#before(child, first)) first = child;
      }
      if (first === at) return top;
      this.#swap(at, first);
      at = first;
    }
  }

  #before(a: number, b: number): boolean {
    const byCount = this.#counts[a] - this.#counts[b];
    return byCount !== 0 ? byCount > 0 : this.#pairs[a] < this.#pairs[b];
  }

  #swap(a: number, b: number): void {
    [this.#counts[a], this.#counts[b]] = [this.#counts[b], this.#counts[a]];
    [this.#pairs[a], this.#pairs[b]] = [this.#pairs[b], this.#pairs[a]];
  }
}

/** A byte-level BPE in the layout of `tokenizer.json`; `bos` is put before a text. */
export function tokenizerJson(
  tokens: readonly string[],
  special: readonly string[],
  merges: readonly [string, string][],
  bos: string | null,
): TokenizerJson {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const sequence = (id: string) => ({ Sequence: { id, type_id: 0 } });
  const first = bos === null ? [] : [{ SpecialToken: { id: bos, type_id: 0 } }];
  const template = {
    type: "TemplateProcessing",
    single: [...first, sequence("A")],
    pair: [...first, sequence("A"), sequence("B")],
    special_tokens: bos === null ? {} : { [bos]: { id: bos, ids: [tokens.indexOf(bos)], tokens: [bos] } },
  };
  return jsonOf({
    added_tokens: special.map((content, id) => addedToken(id, content)),
    pre_tokenizer: byteLevel,
    post_processor: bos === null ? byteLevel : template,
    decoder: byteLevel,
    model: { ...plainBpe, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges },
  });
}
