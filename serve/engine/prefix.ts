/** The parent of a sequence's first block. */
export const ROOT = -1;
/** No block; the end of a chain. */
const NONE = -1;

/**
 * Which full blocks of the K/V pool hold which tokens: a trie whose nodes are blocks. A block is found by its parent block,
 * the `blockSize` tokens in it and, for a first block, a text that keeps apart what must not be shared. Buckets are chosen by
 * a hash, but what is found was compared in full: two prefixes share a block only if they are the same.
 *
 * A child must be deleted before its parent: whoever gives out the parent's number again would adopt the child.
 */
export class PrefixIndex {
  readonly #blockSize: number;
  /** The first block of each bucket, and after each block the next of its bucket. */
  readonly #heads: Int32Array;
  readonly #chain: Int32Array;
  /** By block: its bucket, or NONE while it is not here. */
  readonly #buckets: Int32Array;
  readonly #parents: Int32Array;
  readonly #tokens: Int32Array;
  /** By block: the text of a first block. */
  readonly #apart: string[];
  /** Nobody outside can choose tokens that meet in one bucket. */
  readonly #seed = Math.floor(Math.random() * 2 ** 32);

  constructor(blockCount: number, blockSize: number) {
    this.#blockSize = blockSize;
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(2 * blockCount + 1))).fill(NONE);
    this.#chain = new Int32Array(blockCount).fill(NONE);
    this.#buckets = new Int32Array(blockCount).fill(NONE);
    this.#parents = new Int32Array(blockCount);
    this.#tokens = new Int32Array(blockCount * blockSize);
    this.#apart = new Array<string>(blockCount).fill("");
  }

  has(block: number): boolean {
    return this.#buckets[block] !== NONE;
  }

  /** The block that holds tokens[from … from + blockSize - 1] after `parent`, or -1. `apart` counts after ROOT only. */
  find(parent: number, tokens: readonly number[], from: number, apart: string): number {
    let block = this.#heads[this.#bucket(parent, tokens, from, apart)];
    while (block !== NONE && !this.#holds(block, parent, tokens, from, apart)) block = this.#chain[block];
    return block;
  }

  /** Enters a block that is not here, with content that is not here. */
  add(block: number, parent: number, tokens: readonly number[], from: number, apart: string): void {
    const bucket = this.#bucket(parent, tokens, from, apart);
    this.#buckets[block] = bucket;
    this.#chain[block] = this.#heads[bucket];
    this.#heads[bucket] = block;
    this.#parents[block] = parent;
    for (let i = 0; i < this.#blockSize; i++) this.#tokens[block * this.#blockSize + i] = tokens[from + i];
    if (parent === ROOT) this.#apart[block] = apart;
  }

  delete(block: number): void {
    const bucket = this.#buckets[block];
    this.#buckets[block] = NONE;
    if (this.#heads[bucket] === block) {
      this.#heads[bucket] = this.#chain[block];
      return;
    }
    let before = this.#heads[bucket];
    while (this.#chain[before] !== block) before = this.#chain[before];
    this.#chain[before] = this.#chain[block];
  }

  #holds(block: number, parent: number, tokens: readonly number[], from: number, apart: string): boolean {
    if (this.#parents[block] !== parent || (parent === ROOT && this.#apart[block] !== apart)) return false;
    const start = block * this.#blockSize;
    for (let i = 0; i < this.#blockSize; i++) if (this.#tokens[start + i] !== tokens[from + i]) return false;
    return true;
  }

  #bucket(parent: number, tokens: readonly number[], from: number, apart: string): number {
    let hash = mixed(this.#seed, parent);
    if (parent === ROOT) for (let i = 0; i < apart.length; i++) hash = mixed(hash, apart.charCodeAt(i));
    for (let i = 0; i < this.#blockSize; i++) hash = mixed(hash, tokens[from + i]);
    return (hash ^ (hash >>> 16)) & (this.#heads.length - 1);
  }
}

/** One round of a 32-bit hash: the constant is MurmurHash3's. */
function mixed(hash: number, value: number): number {
  const product = Math.imul(hash ^ value, 0x85ebca6b);
  return product ^ (product >>> 13);
}
