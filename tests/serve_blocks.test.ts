import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockPool, BlockTable } from "../serve/engine/blocks.ts";

const TOTAL = 16;
const BLOCK = 2;

type Op = { op: "open" | "grow" | "say" | "close"; who: number; size: number };
const anyOp: fc.Arbitrary<Op> = fc.record({
  op: fc.constantFrom("open", "grow", "say", "close"),
  who: fc.nat(),
  size: fc.nat(30),
});

/** A sequence of two words, its table, and how many of them are computed. */
interface User {
  table: BlockTable;
  apart: string;
  tokens: number[];
}

/**
 * The cache as it should be: which blocks hold which whole prefix, and how long ago each was given back. The block to
 * be given out next is the first one without content, else the one that was given back longest ago.
 */
class PlainPool {
  readonly content = new Map<number, string>();
  readonly idle: number[] = Array.from({ length: TOTAL }, (_, i) => i);
  take(block: number): void {
    const at = this.idle.indexOf(block);
    if (at >= 0) this.idle.splice(at, 1);
  }
  giveBack(block: number): void {
    if (this.content.has(block)) this.idle.push(block);
    else this.idle.unshift(block);
  }
}

const prefixOf = ({ apart, tokens }: User, blocks: number) =>
  JSON.stringify([apart, tokens.slice(0, blocks * BLOCK)]);

/** One operation on the pool and on the plain one; they must agree on every block. */
function apply(pool: BlockPool, plain: PlainPool, users: User[], { op, who, size }: Op): void {
  const user = users[who % Math.max(1, users.length)];
  const held = (table: BlockTable) => [...table.blocks];
  if (op === "open") {
    const tokens = Array.from({ length: 1 + (size % 12) }, (_, i) => (who >> i) & 1);
    const one: User = { apart: size % 3 === 0 ? "salt" : "", tokens, table: undefined! };
    one.table = new BlockTable(pool, one.apart);
    const positions = one.table.adopt(tokens);
    const want: number[] = [];
    for (let blocks = 1; blocks * BLOCK < tokens.length; blocks++) {
      const found = [...plain.content].find(([, prefix]) => prefix === prefixOf(one, blocks));
      if (found === undefined) break;
      want.push(found[0]);
    }
    expect(held(one.table)).toEqual(want);
    expect(positions).toBe(want.length * BLOCK);
    for (const block of want) plain.take(block);
    users.push(one);
  } else if (user !== undefined && op === "grow") {
    const before = held(user.table);
    const missing = user.table.missing(user.tokens.length);
    const next = plain.idle.slice(0, missing);
    const grew = user.table.grow(user.tokens.length);
    expect(grew).toBe(next.length === missing);
    if (!grew) return;
    expect(held(user.table)).toEqual([...before, ...next]);
    for (const block of next) {
      plain.take(block);
      plain.content.delete(block);
    }
    const blocks = Math.floor(user.tokens.length / BLOCK);
    const own = held(user.table);
    user.table.publish(user.tokens, user.tokens.length);
    for (let i = 0; i < blocks; i++) {
      const known = [...plain.content].find(([, prefix]) => prefix === prefixOf(user, i + 1));
      if (known === undefined) plain.content.set(own[i], prefixOf(user, i + 1));
      else if (known[0] !== own[i]) {
        plain.take(known[0]);
        plain.giveBack(own[i]);
        own[i] = known[0];
      }
    }
    expect(held(user.table)).toEqual(own);
  } else if (user !== undefined && op === "say") {
    user.tokens.push(size & 1);
  } else if (user !== undefined) {
    const blocks = held(user.table).reverse();
    user.table.clear();
    expect(user.table.blocks).toHaveLength(0);
    users.splice(users.indexOf(user), 1);
    for (const block of blocks)
      if (!users.some(({ table }) => table.blocks.includes(block))) plain.giveBack(block);
  }
}

describe("block pool", () => {
  it("gives out, shares and forgets the blocks that a plain model of it does (property)", () => {
    let forgotten = 0;
    fc.assert(
      fc.property(fc.array(anyOp, { minLength: 100, maxLength: 300 }), (ops) => {
        const pool = new BlockPool(TOTAL, BLOCK);
        const plain = new PlainPool();
        const users: User[] = [];
        for (const op of ops) {
          const cached = pool.cached;
          apply(pool, plain, users, op);
          if (op.op === "grow" && pool.cached < cached) forgotten++;
          const holders = new Int32Array(TOTAL);
          for (const { table } of users) for (const block of table.blocks) holders[block]++;
          const all = [...holders.keys()];
          expect(all.map((block) => pool.references(block))).toEqual([...holders]);
          const known = all.filter((block) => pool.index.has(block));
          expect(known).toEqual([...plain.content.keys()].sort((x, y) => x - y));
          const idle = plain.idle.filter((block) => plain.content.has(block)).length;
          expect([pool.free, pool.cached, pool.used]).toEqual([plain.idle.length, idle, TOTAL - pool.free]);
        }
      }),
      { numRuns: 50 },
    );
    expect(forgotten).toBeGreaterThan(0);
  });

  it("hands out every block once, all or nothing", () => {
    const pool = new BlockPool(5, 4);
    expect(pool.alloc(6)).toBeNull();
    expect(pool.free).toBe(5);
    const first = pool.alloc(3)!;
    const second = pool.alloc(2)!;
    expect([...first, ...second].sort()).toEqual([0, 1, 2, 3, 4]);
    expect(pool.alloc(1)).toBeNull();
    expect(pool.alloc(0)).toHaveLength(0);
  });

  it("refuses to release a free block", () => {
    const pool = new BlockPool(2, 4);
    expect(() => pool.release(0)).toThrow("not in use");
    expect(() => pool.release(7)).toThrow("not in use");
  });

  it("forgets the end of a prefix before its beginning, and what was used last at last", () => {
    const pool = new BlockPool(6, 1);
    const compute = (tokens: number[]) => {
      const table = new BlockTable(pool, "");
      table.adopt(tokens);
      table.grow(tokens.length);
      table.publish(tokens, tokens.length);
      const blocks = [...table.blocks];
      table.clear();
      return blocks;
    };
    const [a1, a2, a3] = compute([1, 2, 3]);
    const [b1, b2] = compute([7, 8]);
    // Read again: now the other was used longer ago.
    expect(compute([1, 2, 9]).slice(0, 2)).toEqual([a1, a2]);
    expect([...pool.alloc(3)!]).toEqual([a3, b2, b1]);
    expect(pool.cached).toBe(3);
  });
});
