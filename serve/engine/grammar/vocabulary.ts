/** What the grammar needs of a tokenizer. */
export interface TokenBytes {
  readonly vocabSize: number;
  readonly eosIds: readonly number[];
  idToBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
  streamDecoder(options?: { skipSpecialTokens?: boolean }): { push(id: number): string; flush(): string };
}

/**
 * The tokens that have text, as a trie of their bytes. Its nodes are numbered in the order of a walk that goes deep first, so
 * that a walk is a loop over arrays, and what is below a node is skipped by one jump.
 */
export class Vocabulary {
  /** Words of a mask: a bit per token of the model. */
  readonly maskWords: number;
  readonly eosIds: readonly number[];
  /** Of each node: its byte, its depth (1 for a first byte), and the first node that is not below it. */
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  readonly end: Uint32Array;
  /** Of each node, where its tokens begin in `ids`; they end where those of the next node begin. */
  readonly first: Uint32Array;
  readonly ids: Uint32Array;
  readonly deepest: number;
  /** Whether tokens become text one after the other, so that the text of an answer is its tokens' bytes. */
  readonly concatenates: boolean;
  readonly #tokens: (Uint8Array | undefined)[];
  readonly #single = new Uint8Array(256);

  /** @param vocabSize tokens that the model knows. */
  constructor(tokenizer: TokenBytes, vocabSize: number) {
    this.maskWords = Math.ceil(vocabSize / 32);
    this.eosIds = tokenizer.eosIds.filter((id) => id < vocabSize);
    this.#tokens = Array.from({ length: Math.min(vocabSize, tokenizer.vocabSize) }, (_, id) => {
      const bytes = tokenizer.isSpecial(id) ? new Uint8Array(0) : tokenizer.idToBytes(id);
      return bytes.length === 0 ? undefined : bytes;
    });
    const sorted = [...this.#tokens.keys()].filter((id) => this.#tokens[id] !== undefined);
    const bytesOf = (id: number) => this.#tokens[id]!;
    sorted.sort((a, b) => Buffer.compare(bytesOf(a), bytesOf(b)) || a - b);
    this.concatenates = concatenates(tokenizer, sorted, bytesOf);
    const nodes = { byte: [] as number[], depth: [] as number[], first: [] as number[] };
    let before: Uint8Array = new Uint8Array(0);
    sorted.forEach((id, i) => {
      const bytes = bytesOf(id);
      if (bytes.length === 1) this.#single[bytes[0]] = 1;
      let common = 0;
      while (common < before.length && before[common] === bytes[common]) common++;
      for (let at = common; at < bytes.length; at++) {
        nodes.byte.push(bytes[at]);
        nodes.depth.push(at + 1);
        nodes.first.push(i);
      }
      before = bytes;
    });
    const count = nodes.byte.length;
    this.byte = Uint8Array.from(nodes.byte);
    this.depth = Uint16Array.from(nodes.depth);
    this.first = Uint32Array.from([...nodes.first, sorted.length]);
    this.ids = Uint32Array.from(sorted);
    this.deepest = this.depth.reduce((a, b) => Math.max(a, b), 0);
    this.end = new Uint32Array(count);
    const open: number[] = [];
    for (let node = 0; node <= count; node++) {
      const depth = node < count ? this.depth[node] : 0;
      while (open.length > 0 && this.depth[open[open.length - 1]] >= depth) this.end[open.pop()!] = node;
      open.push(node);
    }
  }

  /** The bytes of a token that has text. */
  bytesOf(id: number): Uint8Array | undefined {
    return this.#tokens[id];
  }

  /** Whether some token is this byte alone: what needs other bytes might begin and not end. */
  hasByte(byte: number): boolean {
    return this.#single[byte] === 1;
  }
}

/** Tries it on tokens of visible ASCII: decoders of words put spaces between them, say. */
function concatenates(
  tokenizer: TokenBytes,
  ids: readonly number[],
  bytesOf: (id: number) => Uint8Array,
): boolean {
  const plain = ids.filter((id) => bytesOf(id).every((byte) => byte > 0x20 && byte < 0x7f));
  const sample = plain.filter((_, i) => i % Math.ceil(plain.length / 64) === 0);
  const decoder = tokenizer.streamDecoder();
  const text = sample.map((id) => decoder.push(id)).join("") + decoder.flush();
  return text === sample.map((id) => Buffer.from(bytesOf(id)).toString("latin1")).join("");
}
