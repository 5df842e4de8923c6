/** Marks in the free list: its last block, and a block that is in use. */
const [END, TAKEN] = [-1, -2];

/**
 * Which blocks of the K/V pool are in use. Holds numbers only; the memory is the runner's.
 * The free list is threaded through `next`, so that taking and giving back a block is O(1) and allocates nothing.
 */
export class BlockPool {
  readonly total: number;
  readonly #next: Int32Array;
  #head: number;
  #free: number;

  constructor(total: number) {
    this.total = total;
    this.#next = Int32Array.from({ length: total }, (_, i) => (i + 1 < total ? i + 1 : END));
    this.#head = total > 0 ? 0 : END;
    this.#free = total;
  }

  get free(): number {
    return this.#free;
  }

  get used(): number {
    return this.total - this.#free;
  }

  /** Takes `count` blocks, or none of them (null) when fewer are free. */
  alloc(count: number): Int32Array | null {
    if (count > this.#free) return null;
    const blocks = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const block = this.#head;
      this.#head = this.#next[block];
      this.#next[block] = TAKEN;
      blocks[i] = block;
    }
    this.#free -= count;
    return blocks;
  }

  release(block: number): void {
    if (this.#next[block] !== TAKEN) throw new Error(`release of block ${block}, which is not in use`);
    this.#next[block] = this.#head;
    this.#head = block;
    this.#free++;
  }
}

/** The blocks of one sequence in order: position p is in block `blocks[p / blockSize | 0]`. */
export class BlockTable {
  readonly #pool: BlockPool;
  readonly #blockSize: number;
  #blocks = new Int32Array(4);
  /** The part in use. Cached: a new view per sequence and step would dominate the planning of a decode. */
  #view = this.#blocks.subarray(0, 0);

  constructor(pool: BlockPool, blockSize: number) {
    this.#pool = pool;
    this.#blockSize = blockSize;
  }

  /** View of the block ids, valid until the table changes. */
  get blocks(): Int32Array {
    return this.#view;
  }

  /** Blocks still to be taken until there is room for `positions` positions. */
  missing(positions: number): number {
    return Math.max(0, Math.ceil(positions / this.#blockSize) - this.#view.length);
  }

  /** Makes room for `positions` positions. False, with nothing changed, when the pool has too few free blocks. */
  grow(positions: number): boolean {
    const count = this.missing(positions);
    if (count === 0) return true;
    const taken = this.#pool.alloc(count);
    if (taken === null) return false;
    const before = this.#view.length;
    if (before + count > this.#blocks.length) {
      const wider = new Int32Array(Math.max(this.#blocks.length * 2, before + count));
      wider.set(this.#view);
      this.#blocks = wider;
    }
    this.#blocks.set(taken, before);
    this.#view = this.#blocks.subarray(0, before + count);
    return true;
  }

  /** Gives all blocks back, last first, so that the first blocks of a sequence are reused last. */
  clear(): void {
    for (let i = this.#view.length - 1; i >= 0; i--) this.#pool.release(this.#view[i]);
    this.#view = this.#blocks.subarray(0, 0);
  }
}
