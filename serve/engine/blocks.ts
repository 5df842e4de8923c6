/**
 * Which blocks of the K/V pool are in use, and by how many tables. Holds numbers only; the memory is the runner's.
 * The free list is threaded through `next`, so that taking and giving back a block is O(1) and allocates nothing.
 */
export class BlockPool {
  readonly total: number;
  readonly #refs: Int32Array;
  readonly #next: Int32Array;
  #head: number;
  #free: number;

  constructor(total: number) {
    this.total = total;
    this.#refs = new Int32Array(total);
    this.#next = Int32Array.from({ length: total }, (_, i) => (i + 1 < total ? i + 1 : -1));
    this.#head = total > 0 ? 0 : -1;
    this.#free = total;
  }

  get free(): number {
    return this.#free;
  }

  get used(): number {
    return this.total - this.#free;
  }

  /** Number of tables that hold `block`; 0 when it is free. */
  refs(block: number): number {
    return this.#refs[block];
  }

  /** Takes `count` blocks with one reference each, or none of them (null) when fewer are free. */
  alloc(count: number): Int32Array | null {
    if (count > this.#free) return null;
    const blocks = new Int32Array(count);
    for (let i = 0; i < count; i++) {
      const block = this.#head;
      this.#head = this.#next[block];
      this.#refs[block] = 1;
      blocks[i] = block;
    }
    this.#free -= count;
    return blocks;
  }

  /** One more table holds `block`. */
  retain(block: number): void {
    if (!(this.#refs[block] > 0)) throw new Error(`retain of block ${block}, which is not in use`);
    this.#refs[block]++;
  }

  /** One table fewer holds `block`; the last one frees it. */
  release(block: number): void {
    if (!(this.#refs[block] > 0)) throw new Error(`release of block ${block}, which is not in use`);
    if (--this.#refs[block] > 0) return;
    this.#next[block] = this.#head;
    this.#head = block;
    this.#free++;
  }
}
