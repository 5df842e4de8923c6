import { describe, KilnError } from "../../core/errors.ts";
import { opError } from "../../core/op.ts";
import { checkList, checkWhole, normalizeDim, numel, rankOf, show } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { diagonal } from "../creation/index.ts";
import { mul } from "../elementwise/index.ts";
import { castTo } from "../elementwise/op.ts";
import { promote } from "../elementwise/program.ts";
import { matmul } from "../matmul/index.ts";
import { sum } from "../reduce/index.ts";
import { expand, permute, reshape, unsqueeze } from "../views/index.ts";

/** A tensor whose axes have names: letters, and one digit for each axis of an ellipsis, counted from the right. */
interface Named {
  readonly t: Tensor;
  readonly axes: readonly string[];
}

/**
 * Einstein's summation, as NumPy and PyTorch write it: `einsum("bij,bjk->bik", a, b)`. Each letter names an axis; what the
 * output does not name is summed over, a letter twice in one operand is its diagonal, and `...` stands for axes that
 * broadcast. Without `->` the output has the letters that occur once, in the order of the alphabet, after the ellipsis.
 * Extents of 1 are repeated. Operands are contracted from left to right, by `matmul` where axes are summed over.
 *
 * @throws KilnError where the equation does not fit the operands
 */
export function einsum(equation: string, ...operands: Tensor[]): Tensor {
  const { inputs, output } = parse(equation, operands);
  const extents = new Map<string, number>();
  inputs.forEach((axes, i) => {
    axes.forEach((axis, k) => {
      const extent = operands[i].shape[k];
      const known = extents.get(axis) ?? 1;
      if (known !== 1 && extent !== 1 && known !== extent)
        throw opError(
          "einsum",
          operands,
          `axis ${axis} of "${equation}" is both ${known} and ${extent} long`,
        );
      extents.set(axis, known === 1 ? extent : known);
    });
  });
  const dtype = promote(
    "einsum",
    operands.map((t) => t.dtype),
  );
  const named = inputs.map((axes, i) => distinct(expanded(castTo(operands[i], dtype), axes, extents), axes));
  const last = named.slice(1).reduce((a, b, i) => {
    const later = new Set([...output, ...inputs.slice(i + 2).flat()]);
    return contract(a, b, later);
  }, named[0]);
  const { t, axes } = summed(last, new Set(output));
  return permute(
    t,
    output.map((axis) => axes.indexOf(axis)),
  );
}

/** Names of the axes of each operand, and of the output. */
function parse(equation: string, operands: readonly Tensor[]): { inputs: string[][]; output: string[] } {
  const fail = (why: string): never => {
    throw new KilnError(`einsum: ${why}; write an equation such as "ij,jk->ik"`);
  };
  if (typeof equation !== "string") return fail(`the equation is ${describe(equation)}`);
  const [left, right, more] = equation.replaceAll(/\s/g, "").split("->");
  const terms = left.split(",");
  const wrong = [...terms, right ?? ""].find((term) => !/^[a-zA-Z]*(\.\.\.)?[a-zA-Z]*$/.test(term));
  if (wrong !== undefined || more !== undefined) return fail(`"${equation}" cannot be read`);
  if (terms.length !== operands.length)
    return fail(`"${equation}" has ${terms.length} operands, ${operands.length} were given`);
  const letters = (term: string) => [...term.replace("...", "")];
  const inputs = terms.map((term, i) => {
    const open = rankOf("einsum", operands[i]) - letters(term).length;
    const fits = term.includes("...") ? open >= 0 && open <= 10 : open === 0;
    if (!fits) return fail(`"${term}" does not name the axes of ${show(operands[i].shape)}`);
    return namesOf(term, open);
  });
  const widest = Math.max(...inputs.map((axes) => axes.filter((axis) => axis < "A").length));
  if (right !== undefined) {
    const output = namesOf(right, widest);
    const strange = output.find((axis, i) => output.indexOf(axis) !== i || !inputs.flat().includes(axis));
    return strange === undefined
      ? { inputs, output }
      : fail(`output axis ${strange} must be one of an operand, once`);
  }
  const all = terms.flatMap(letters);
  const once = all.filter((letter) => all.indexOf(letter) === all.lastIndexOf(letter)).sort();
  return { inputs, output: [...namesOf("...", widest), ...once] };
}

const namesOf = (term: string, open: number) => [...term.replace("...", "9876543210".slice(10 - open))];

/** The operand with axes of extent 1 repeated to what the others have under that name. */
function expanded(t: Tensor, axes: readonly string[], extents: ReadonlyMap<string, number>): Tensor {
  return expand(
    t,
    axes.map((axis) => extents.get(axis)!),
  );
}

/** With one axis a name: diagonals of those that have more. */
function distinct(t: Tensor, axes: readonly string[]): Named {
  const second = axes.findIndex((axis, i) => axes.indexOf(axis) < i);
  if (second < 0) return { t, axes };
  const first = axes.indexOf(axes[second]);
  const rest = axes.filter((_, i) => i !== first && i !== second);
  return distinct(diagonal(t, 0, first, second), [...rest, axes[second]]);
}

/** The sum over the axes that are not needed later. */
function summed({ t, axes }: Named, later: ReadonlySet<string>): Named {
  const dims = axes.flatMap((axis, i) => (later.has(axis) ? [] : [i]));
  return dims.length === 0 ? { t, axes } : { t: sum(t, dims), axes: axes.filter((axis) => later.has(axis)) };
}

/** The product of two operands, summed over the axes that both have and nothing later needs. */
function contract(left: Named, right: Named, later: ReadonlySet<string>): Named {
  const a = summed(left, new Set([...later, ...right.axes]));
  const b = summed(right, new Set([...later, ...left.axes]));
  const both = a.axes.filter((axis) => b.axes.includes(axis));
  const batch = both.filter((axis) => later.has(axis));
  const inner = both.filter((axis) => !later.has(axis));
  const rows = a.axes.filter((axis) => !both.includes(axis));
  const columns = b.axes.filter((axis) => !both.includes(axis));
  const x = grouped(a, [batch, rows, inner]);
  const y = grouped(b, [batch, inner, columns]);
  const shape = [...batch, ...rows, ...columns].map((axis) => {
    const from = a.axes.includes(axis) ? a : b;
    return from.t.shape[from.axes.indexOf(axis)];
  });
  // Without a sum the inner extent is 1: a product element by element, which rounds once and knows every dtype.
  const product = inner.length === 0 ? mul(x, y) : matmul(x, y);
  return { t: reshape(product, shape), axes: [...batch, ...rows, ...columns] };
}

/** One axis for each group of names. */
function grouped({ t, axes }: Named, groups: readonly (readonly string[])[]): Tensor {
  const order = groups.flat().map((axis) => axes.indexOf(axis));
  const extent = (group: readonly string[]) => numel(group.map((axis) => t.shape[axes.indexOf(axis)]));
  return reshape(permute(t, order), groups.map(extent));
}

/**
 * The product of a and b summed over pairs of axes: over those that two lists name in order, or over the last `dims` of a
 * and the first `dims` of b.
 */
export function tensordot(a: Tensor, b: Tensor, dims: number | readonly (readonly number[])[] = 2): Tensor {
  const [rankA, rankB] = [rankOf("tensordot", a), rankOf("tensordot", b)];
  if (typeof dims === "number") {
    checkWhole("tensordot", "the number of axes", dims, 0, Math.min(rankA, rankB));
    const range = Array.from({ length: dims }, (_, i) => i);
    return tensordot(a, b, [range.map((i) => rankA - dims + i), range]);
  }
  checkList("tensordot", "lists of axes", dims);
  for (const list of dims) checkList("tensordot", "axes", list);
  if (dims.length !== 2 || dims[0].length !== dims[1].length)
    throw new KilnError("tensordot: expected two lists with the same number of axes");
  const [left, right] = [
    dims[0].map((d) => normalizeDim("tensordot", d, a)),
    dims[1].map((d) => normalizeDim("tensordot", d, b)),
  ];
  const letter = (i: number) => String.fromCharCode(97 + i);
  if (rankA + rankB > 26) throw opError("tensordot", [a, b], "expected at most 26 axes together");
  const first = a.shape.map((_, i) => letter(i));
  const second = b.shape.map((_, i) =>
    right.includes(i) ? first[left[right.indexOf(i)]] : letter(rankA + i),
  );
  const kept = [...first.filter((_, i) => !left.includes(i)), ...second.filter((_, i) => !right.includes(i))];
  return einsum(`${first.join("")},${second.join("")}->${kept.join("")}`, a, b);
}

/** [n] and [m] -> the products of all pairs [n, m]. */
export const outer = (a: Tensor, b: Tensor) =>
  mul(unsqueeze(ranked("outer", a, 1), 1), ranked("outer", b, 1));

/** The sum of products of two vectors. */
export const dot = (a: Tensor, b: Tensor) => matmul(ranked("dot", a, 1), ranked("dot", b, 1));

/** [n, m] times [m] -> [n]. */
export const mv = (a: Tensor, b: Tensor) => matmul(ranked("mv", a, 2), ranked("mv", b, 1));

/** [n, m] times [m, k] -> [n, k]. */
export const mm = (a: Tensor, b: Tensor) => matmul(ranked("mm", a, 2), ranked("mm", b, 2));

/** [b, n, m] times [b, m, k] -> [b, n, k]. */
export const bmm = (a: Tensor, b: Tensor) => matmul(ranked("bmm", a, 3), ranked("bmm", b, 3));

function ranked(name: string, t: Tensor, rank: number): Tensor {
  if (rankOf(name, t) !== rank) throw opError(name, [t], `expected a tensor of rank ${rank}`);
  return t;
}
