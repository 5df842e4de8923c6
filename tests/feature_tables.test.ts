import { readFileSync } from "node:fs";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openReference, setDevice } from "../index.ts";
import { type TableCells, TableFeatures, type TableSettings } from "../models/index.ts";

/**
 * Tables as features, with scikit-learn 1.9.1's numbers: fixtures/tables_sklearn.json.
 *
 *     numbers     make_pipeline(SimpleImputer(strategy, fill_value), StandardScaler() or MinMaxScaler()).fit(train)
 *     categories  OneHotEncoder(handle_unknown="ignore") after SimpleImputer(strategy="most_frequent"), fitted on train
 */
const golden: {
  numbers: { fill: "median" | { constant: number }; scale: "z-score"; train: number[]; test: number[] }[];
  categories: { names: string[]; train: number[]; test: number[] };
} = JSON.parse(readFileSync(new URL("fixtures/tables_sklearn.json", import.meta.url), "utf8"));

beforeAll(() => setDevice(openReference()));
afterAll(() => setDevice(null));

const numbersOf = async (features: TableFeatures, rows: readonly TableCells[]) =>
  Array.from(await features.transform(rows).data(), Number);
function close(actual: readonly number[], expected: readonly number[]) {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(actual[i]).toBeCloseTo(value, 5);
}

const pairs = (rows: [number | null, number | null][]) => rows.map(([a, b]) => ({ a, b }));
const train = pairs([
  [3, 10],
  [null, 20],
  [5, 10],
  [8, null],
  [5, 40],
  [1, 10],
]);
const test = pairs([
  [4, null],
  [null, 15],
  [20, -5],
]);

describe("columns of numbers", () => {
  it.each(golden.numbers)("fill $fill, scale $scale", async ({ fill, scale, ...expected }) => {
    const settings: TableSettings = {
      a: { kind: "number", fill, scale },
      b: { kind: "number", fill, scale },
    };
    const features = TableFeatures.fit(train, settings);
    close(await numbersOf(features, train), expected.train);
    close(await numbersOf(features, test), expected.test);
  });

  it("take texts as files have them, and one value alone is 0", async () => {
    const rows = [{ price: "$1,000" }, { price: "n/a" }, { price: " 3000 " }];
    const features = TableFeatures.fit(rows, { price: { kind: "number", scale: "min-max" } });
    expect(await numbersOf(features, rows)).toEqual([0, 0.5, 1]);
    const same = TableFeatures.fit([{ x: 4 }, { x: 4 }], { x: { kind: "number" } });
    expect(await numbersOf(same, [{ x: 4 }])).toEqual([0]);
  });
});

describe("categories", () => {
  const colours = (rows: [string | null, string | null][]) =>
    rows.map(([colour, size]) => ({ colour, size }));
  const known = colours([
    ["red", "S"],
    ["blue", "M"],
    ["red", null],
    ["green", "L"],
    [null, "M"],
  ]);
  const others = colours([
    ["red", "XL"],
    ["violet", "M"],
    [null, null],
  ]);

  it("are one-hot, an unknown one is all zero, the most frequent stands for a missing one", async () => {
    const features = TableFeatures.fit(known, {
      colour: { kind: "category", fill: "mode" },
      size: { kind: "category", fill: "mode" },
    });
    expect(features.names.map((name) => name.replace("=", "_"))).toEqual(golden.categories.names);
    close(await numbersOf(features, known), golden.categories.train);
    close(await numbersOf(features, others), golden.categories.test);
  });

  it("a missing one is none by default, or a category of its own", async () => {
    const none = TableFeatures.fit(known, { size: { kind: "category" } });
    expect(await numbersOf(none, [{ size: null }])).toEqual([0, 0, 0]);
    const own = TableFeatures.fit(known, { size: { kind: "category", fill: { constant: "not said" } } });
    expect(own.names).toEqual(["size=L", "size=M", "size=S", "size=not said"]);
    expect(await numbersOf(own, [{ size: null }])).toEqual([0, 0, 0, 1]);
  });
});

describe("a table", () => {
  const row = fc.record({
    n: fc.option(fc.integer({ min: -50, max: 50 }), { nil: null }),
    c: fc.option(fc.constantFrom("x", "y", "z", "ä"), { nil: null }),
  });
  const settings: TableSettings = {
    n: { kind: "number", fill: { constant: 0 } },
    c: { kind: "category" },
  };

  it("is fitted on the rows of training only, each row by itself, and kept in JSON (property)", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(row, { minLength: 1, maxLength: 12 }),
        fc.array(row, { minLength: 1, maxLength: 6 }),
        async (fitted, more) => {
          const features = TableFeatures.fit(fitted, settings);
          const kept = TableFeatures.fromJSON(JSON.parse(JSON.stringify(features)));
          const width = features.names.length;
          const own = await numbersOf(features, fitted);
          const all = await numbersOf(kept, [...fitted, ...more]);
          expect(all.slice(0, own.length)).toEqual(own);
          for (const [i, one] of more.entries())
            expect(await numbersOf(features, [one])).toEqual(
              all.slice(own.length + i * width, own.length + (i + 1) * width),
            );
        },
      ),
      { numRuns: 30 },
    );
  });

  it("without settings takes what its profile shows: numbers, categories and yes or no", () => {
    const rows = Array.from({ length: 8 }, (_, i) => ({
      age: `${20 + i}`,
      kind: i % 2 ? "cat" : "dog",
      paid: i % 3 ? "yes" : "no",
      said: `text number ${i}, each its own`,
      day: `2026-01-0${i + 1}`,
    }));
    expect(TableFeatures.fit(rows).names).toEqual(["age", "kind=cat", "kind=dog", "paid=no", "paid=yes"]);
  });

  it.each([
    [() => TableFeatures.fit([]), "without rows"],
    [() => TableFeatures.fit(train, { c: { kind: "number" } }), "no column c: it has a, b"],
    [
      () => TableFeatures.fit([{ a: 1 }, { a: "many" }], { a: { kind: "number" } }),
      'row 2 has "many" in the column a, which is of numbers',
    ],
    [() => TableFeatures.fit([{ a: null }], { a: { kind: "number" } }), "the column a has no value"],
    [() => TableFeatures.fit(train, { a: { kind: "number", scale: "log" } } as never), "z-score"],
    [() => TableFeatures.fromJSON([{ kind: "number" }]), "the fitted table"],
  ])("wrong ones are refused in one line: %#", (call, message) => {
    expect(call).toThrow(message);
    expect(call).not.toThrow("\n");
  });
});
