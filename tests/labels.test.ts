import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { classWeights, labelIds, labelWeights, orderLabels, stratifiedSplit } from "../train/data/labels.ts";

describe("labels", () => {
  it("are numbered by value or code point, whatever the order of the rows", () => {
    expect(orderLabels(["10", "2", "-1", "2"])).toEqual(["-1", "2", "10"]);
    expect(orderLabels(["b", "é", "B", "10", "😀", "\uffff"])).toEqual(["10", "B", "b", "é", "\uffff", "😀"]);
    const names = fc.array(fc.string({ unit: "grapheme" }), { minLength: 1 });
    fc.assert(
      fc.property(names, (some) => {
        expect(orderLabels([...some].reverse())).toEqual(orderLabels(some));
      }),
    );
  });

  it("that a model does not know are named", () => {
    expect([...labelIds(["b", "a", "b"], ["a", "b"])]).toEqual([1, 0, 1]);
    expect(() => labelIds(["positve", "x", "positve"], ["negative", "positive"])).toThrow(
      'does not know: "positve", "x" (did you mean "positive"?); it knows "negative", "positive"',
    );
  });

  it("weigh alike together, as scikit-learn's balanced weights", () => {
    // compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 0, 1, 1, 2]) of scikit-learn: 6 / (3 * count).
    expect([...classWeights(Int32Array.of(0, 0, 0, 1, 1, 2), 3)]).toEqual([2 / 3, 1, 2].map(Math.fround));
    expect([...classWeights(Int32Array.of(0, 0), 2)]).toEqual([0.5, 0]);
  });

  it("weigh what they are told to, the others 1, and unknown ones are named", () => {
    expect([...labelWeights({ b: 2.5 }, ["a", "b", "c"])]).toEqual([1, 2.5, 1]);
    const wrong = 'data.class_weights names "d", but the labels are "a", "b"';
    expect(() => labelWeights({ a: 1, d: 2 }, ["a", "b"])).toThrow(wrong);
  });
});

describe("a stratified split", () => {
  const rows = fc.array(fc.constantFrom("a", "b", "c", "rare", "other"), { minLength: 2, maxLength: 200 });
  it("holds out each label's share, at least one row and never all", () => {
    const cases = fc.tuple(rows, fc.double({ min: 0.01, max: 0.9, noNaN: true }), fc.nat());
    fc.assert(
      fc.property(cases, ([labels, fraction, seed]) => {
        const count = (name: string) => labels.filter((label) => label === name).length;
        const names = [...new Set(labels)];
        if (names.every((name) => count(name) === 1)) return;
        const { train, validation, once } = stratifiedSplit(labels, { fraction, seed });
        expect([...train, ...validation].sort((a, b) => a - b)).toEqual([...labels.keys()]);
        expect(once).toEqual(orderLabels(names.filter((name) => count(name) === 1)));
        for (const name of names) {
          const held = [...validation].filter((i) => labels[i] === name).length;
          const share = count(name) * fraction;
          expect(held).toBeLessThan(count(name));
          if (count(name) > 1) expect(held).toBeGreaterThan(0);
          expect(held).toBeLessThanOrEqual(Math.max(1, Math.ceil(share)));
          expect(held).toBeGreaterThanOrEqual(Math.min(count(name) - 1, Math.floor(share)));
        }
      }),
    );
  });

  it("depends on the seed and nothing else", () => {
    const labels = Array.from({ length: 100 }, (_, i) => `${i % 3}`);
    const split = (seed: number) => stratifiedSplit(labels, { fraction: 0.2, seed });
    expect(split(1)).toEqual(split(1));
    expect(split(1).validation).not.toEqual(split(2).validation);
    expect(split(1).validation).toHaveLength(20);
    expect(stratifiedSplit(labels, { fraction: 0, seed: 1 }).train).toHaveLength(100);
  });

  it("names labels that occur once, and refuses if all do", () => {
    const { train, once } = stratifiedSplit(["a", "a", "b", "typo"], { fraction: 0.5, seed: 0 });
    expect(once).toEqual(["b", "typo"]);
    expect(train).toHaveLength(3);
    expect(() => stratifiedSplit(["a", "b"], { fraction: 0.5, seed: 0 })).toThrow(
      /each label occurs once \("a", "b"\), so that none can be held out/,
    );
  });
});
