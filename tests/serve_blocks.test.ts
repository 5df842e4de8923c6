import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockPool, BlockTable } from "../serve/engine/blocks.ts";

const TOTAL = 100;

type Op = { op: "open" | "grow" | "close"; who: number; size: number };
const anyOp: fc.Arbitrary<Op> = fc.record({
  op: fc.constantFrom("open", "grow", "close"),
  who: fc.nat(),
  size: fc.nat(60),
});

describe("block pool", () => {
  it("loses no block and gives none to two tables, after every operation", () => {
    fc.assert(
      fc.property(fc.array(anyOp, { maxLength: 500 }), (ops) => {
        const pool = new BlockPool(TOTAL);
        const tables: BlockTable[] = [];
        for (const { op, who, size } of ops) {
          const table = tables[who % Math.max(1, tables.length)];
          if (op === "open") tables.push(new BlockTable(pool, 4));
          else if (op === "grow" && table) {
            const before = { held: table.blocks.length, free: pool.free, missing: table.missing(size) };
            const grew = table.grow(size);
            expect(grew).toBe(before.missing <= before.free);
            expect(pool.free).toBe(before.free - (grew ? before.missing : 0));
            expect(table.blocks.length).toBe(grew ? Math.max(before.held, Math.ceil(size / 4)) : before.held);
          } else if (op === "close" && table) {
            table.clear();
            expect(table.blocks).toHaveLength(0);
          }
          const holders = new Int32Array(TOTAL);
          for (const { blocks } of tables) for (const block of blocks) holders[block]++;
          expect(Math.max(...holders)).toBeLessThanOrEqual(1);
          expect(pool.used).toBe(holders.filter((count) => count > 0).length);
          expect(pool.free + pool.used).toBe(TOTAL);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("hands out every block once, all or nothing", () => {
    const pool = new BlockPool(5);
    expect(pool.alloc(6)).toBeNull();
    expect(pool.free).toBe(5);
    const first = pool.alloc(3)!;
    const second = pool.alloc(2)!;
    expect([...first, ...second].sort()).toEqual([0, 1, 2, 3, 4]);
    expect(pool.alloc(1)).toBeNull();
    expect(pool.alloc(0)).toHaveLength(0);
  });

  it("refuses to release a free block", () => {
    const pool = new BlockPool(2);
    expect(() => pool.release(0)).toThrow("not in use");
    expect(() => pool.release(7)).toThrow("not in use");
  });
});
