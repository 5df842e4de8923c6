import type { BlockPool } from "./blocks.ts";

/** The blocks of one sequence in order: position p lives in block `blocks[p / blockSize | 0]`. */
export class BlockTable {
  readonly #pool: BlockPool;
  readonly #blockSize: number;
  #blocks = new Int32Array(4);
  /** The part in use. Kept, since a view a sequence and step costs more than the rest of planning a decode. */
  #view = this.#blocks.subarray(0, 0);
  #count = 0;

  constructor(pool: BlockPool, blockSize: number) {
    this.#pool = pool;
    this.#blockSize = blockSize;
  }

  /** View of the block ids, valid until the table changes. */
  get blocks(): Int32Array {
    return this.#view;
  }

  /** Positions that have a slot. */
  get capacity(): number {
    return this.#count * this.#blockSize;
  }

  /** Blocks still to be taken until `positions` positions have a slot. */
  missing(positions: number): number {
    return Math.max(0, Math.ceil(positions / this.#blockSize) - this.#count);
  }

  /** Grows to hold `positions` positions. False, with nothing changed, when the pool has too few free blocks. */
  grow(positions: number): boolean {
    const count = this.missing(positions);
    if (count === 0) return true;
    const blocks = this.#pool.alloc(count);
    if (blocks === null) return false;
    if (this.#count + count > this.#blocks.length) {
      const wider = new Int32Array(Math.max(this.#blocks.length * 2, this.#count + count));
      wider.set(this.blocks);
      this.#blocks = wider;
    }
    this.#blocks.set(blocks, this.#count);
    this.#count += count;
    this.#view = this.#blocks.subarray(0, this.#count);
    return true;
  }

  /** Gives all blocks back, last first, so that the head of a sequence is reused last. */
  clear(): void {
    while (this.#count > 0) this.#pool.release(this.#blocks[--this.#count]);
    this.#view = this.#blocks.subarray(0, 0);
  }
}
