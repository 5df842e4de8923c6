import { PrefixIndex, ROOT } from "./prefix.ts";

/**
 * Which blocks of the K/V pool are in use, and by how many tables. Holds numbers only; the memory is the runner's.
 *
 * A block that nobody uses is free, whether or not it still holds a prefix that may be asked for again. The free blocks form
 * a ring, threaded through `next` and `previous`, so that each can be taken out of it: everything is O(1) a block and
 * allocates nothing. Blocks without content are given out first, then the least recently used.
 */
export class BlockPool {
  readonly total: number;
  /** Positions per block. */
  readonly blockSize: number;
  /** The full blocks whose content may be shared, in use or not. */
  readonly index: PrefixIndex;
  /** Tables that hold each block. */
  readonly #references: Int32Array;
  /** The ring of free blocks. Its first and last are the neighbours of the number `total`, which is no block. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #free: number;
  #cached = 0;

  constructor(total: number, blockSize: number) {
    this.total = total;
    this.blockSize = blockSize;
    this.index = new PrefixIndex(total, blockSize);
    this.#references = new Int32Array(total);
    this.#next = Int32Array.from({ length: total + 1 }, (_, i) => (i + 1) % (total + 1));
    this.#previous = Int32Array.from({ length: total + 1 }, (_, i) => (i + total) % (total + 1));
    this.#free = total;
  }

  /** Blocks that can be had, those with a prefix in them too. */
  get free(): number {
    return this.#free;
  }

  get used(): number {
    return this.total - this.#free;
  }

  /** Free blocks that hold a prefix. */
  get cached(): number {
    return this.#cached;
  }

  references(block: number): number {
    return this.#references[block];
  }

  /** Takes `count` blocks, or none of them (null) when fewer are free. Their content is forgotten. */
  alloc(count: number): Int32Array | null {
    if (count > this.#free) return null;
    const blocks = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const block = this.#next[this.total];
      this.retain(block);
      if (this.index.has(block)) this.index.delete(block);
      blocks[i] = block;
    }
    return blocks;
  }

  /** One more table holds the block. */
  retain(block: number): void {
    if (this.#references[block]++ > 0) return;
    this.#next[this.#previous[block]] = this.#next[block];
    this.#previous[this.#next[block]] = this.#previous[block];
    this.#free--;
    if (this.index.has(block)) this.#cached--;
  }

  /** One table less holds the block. */
  release(block: number): void {
    if (!(this.#references[block] > 0)) throw new Error(`release of block ${block}, which is not in use`);
    if (--this.#references[block] > 0) return;
    const hasContent = this.index.has(block);
    const after = hasContent ? this.#previous[this.total] : this.total;
    const before = this.#next[after];
    this.#next[after] = block;
    this.#previous[block] = after;
    this.#next[block] = before;
    this.#previous[before] = block;
    this.#free++;
    if (hasContent) this.#cached++;
  }
}

/** The blocks of one sequence in order: position p is in block `blocks[p / blockSize | 0]`. */
export class BlockTable {
  /** Sequences share blocks only if this is the same. */
  readonly apart: string;
  readonly #pool: BlockPool;
  #blocks = new Int32Array(4);
  /** The part in use. Cached: a new view per sequence and step would dominate the planning of a decode. */
  #view = this.#blocks.subarray(0, 0);
  /** Positions that the blocks hold, so that a decode, which mostly has room, looks at nothing else. */
  #room = 0;
  /** Leading blocks that are in the pool's index. They are never written again. */
  #published = 0;
  /** Positions that must be computed before another block is published. */
  #due: number;

  constructor(pool: BlockPool, apart: string) {
    this.#pool = pool;
    this.apart = apart;
    this.#due = pool.blockSize;
  }

  /** View of the block ids, valid until the table changes. */
  get blocks(): Int32Array {
    return this.#view;
  }

  /** Blocks that would be free if this table gave them back. */
  get exclusive(): number {
    let count = 0;
    for (const block of this.#view) if (this.#pool.references(block) === 1) count++;
    return count;
  }

  /** Blocks still to be taken until there is room for `positions` positions. */
  missing(positions: number): number {
    return Math.max(0, Math.ceil(positions / this.#pool.blockSize) - this.#view.length);
  }

  /** Makes room for `positions` positions. False, with nothing changed, when the pool has too few free blocks. */
  grow(positions: number): boolean {
    if (positions <= this.#room) return true;
    const taken = this.#pool.alloc(this.missing(positions));
    if (taken === null) return false;
    this.#append(taken);
    return true;
  }

  /**
   * An empty table takes over the blocks that hold the longest known prefix of `tokens`.
   * @returns positions whose K and V they hold: full blocks, and fewer than there are tokens, so that one is left to compute.
   */
  adopt(tokens: readonly number[]): number {
    const { blockSize, index } = this.#pool;
    const found: number[] = [];
    let parent = ROOT;
    for (let end = blockSize; end < tokens.length; end += blockSize) {
      parent = index.find(parent, tokens, end - blockSize, this.apart);
      if (parent < 0) break;
      this.#pool.retain(parent);
      found.push(parent);
    }
    this.#append(found);
    this.#publishedAre(found.length);
    return found.length * blockSize;
  }

  /**
   * Enters the blocks that are full now that `computed` positions are, so that others find them. Where the same content is
   * known already, the table takes that block instead of its own: both hold the same bits. So whoever holds a block of the
   * index holds its parent too, and gives it back later: of a prefix, the end is forgotten first.
   */
  publish(tokens: readonly number[], computed: number): void {
    if (computed < this.#due) return;
    const { blockSize, index } = this.#pool;
    for (; computed >= this.#due; this.#publishedAre(this.#published + 1)) {
      const at = this.#published;
      const own = this.#view[at];
      const parent = at > 0 ? this.#view[at - 1] : ROOT;
      const known = index.find(parent, tokens, at * blockSize, this.apart);
      if (known < 0) {
        index.add(own, parent, tokens, at * blockSize, this.apart);
      } else {
        this.#pool.retain(known);
        this.#pool.release(own);
        this.#view[at] = known;
      }
    }
  }

  /** Gives all blocks back, last first, so that the first blocks of a sequence are forgotten last. */
  clear(): void {
    for (let i = this.#view.length - 1; i >= 0; i--) this.#pool.release(this.#view[i]);
    this.#view = this.#blocks.subarray(0, 0);
    this.#room = 0;
    this.#publishedAre(0);
  }

  #publishedAre(count: number): void {
    this.#published = count;
    this.#due = (count + 1) * this.#pool.blockSize;
  }

  #append(blocks: ArrayLike<number>): void {
    const before = this.#view.length;
    const after = before + blocks.length;
    if (after > this.#blocks.length) {
      const wider = new Int32Array(Math.max(this.#blocks.length * 2, after));
      wider.set(this.#view);
      this.#blocks = wider;
    }
    this.#blocks.set(blocks, before);
    this.#view = this.#blocks.subarray(0, after);
    this.#room = after * this.#pool.blockSize;
  }
}
