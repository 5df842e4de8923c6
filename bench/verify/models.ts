import { grads } from "../../core/autograd.ts";
import { KilnError } from "../../core/errors.ts";
import { dispose, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { mul } from "../../kernels/index.ts";
import { createModel, readModelConfig } from "../../models/architectures.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { loadWeights } from "../../models/formats/hf_directory.ts";
import { readModelWeights } from "../../models/formats/safetensors.ts";
import type { TokenBatch } from "../../models/model.ts";
import { PagedDecoder, type PagedItem } from "../../models/paged_decoder.ts";
import type { Parameter } from "../../nn/index.ts";
import { argmax } from "../../serve/engine/sampler.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";

/** `expected.json` of a decoder. */
export interface ModelExpectation {
  /** Name of the transformers class. */
  class?: string;
  loss: number;
  grad_norm: number;
  num_parameters: number;
  /** For each row its prompt (the first tokens of the input) and the likeliest tokens after it. */
  greedy?: number[][];
}

/**
 * Tolerances: hidden states, logits and the loss to 1e-4; each gradient to 1e-3 of its tensor's largest value, the norm
 * of all to 1e-3 of itself. They leave room for float32 sums in any order, and none for another formula.
 */
export const near = { atol: 1e-4 };
const share = 1e-3;

/** Loads a decoder's directory: shape and weights, no tokenizer. */
export async function loadDecoder(path: string): Promise<CausalLM> {
  const model = createModel(await readModelConfig(path));
  loadWeights(model, await readModelWeights(path));
  return model;
}

/** Labels as transformers takes them (label i belongs to token i) turned into the next token of each place. */
export function nextTokens(labels: Int32Array, rows: number): Int32Array {
  const length = labels.length / rows;
  return labels.map((_, i) => ((i + 1) % length === 0 ? -100 : labels[i + 1]));
}

/** Hidden states, logits, loss, every gradient, and greedy tokens of one decoder. */
export async function verifyDecoder(
  report: Report,
  folder: Folder,
  expected: ModelExpectation,
): Promise<void> {
  const name = folder.name || "model";
  const parts = ["hidden", "logits", "loss", "gradients", "grad_norm", "num_parameters", "greedy", "paged"];
  if (!parts.some((part) => report.wants(`${name}/${part}`))) return;
  const file = new TensorFile(folder, "expected");
  const model = await loadDecoder(folder.path);
  const check = (part: string, body: () => Comparison | Promise<Comparison>) =>
    report.check(`${name}/${part}`, body);
  await check("num_parameters", () => compare([model.numParameters], [expected.num_parameters], { atol: 0 }));
  await check("hidden", () => compareHidden(model, file));
  await check("logits", async () =>
    compare((await forward(model, file)).logits, file.floats("logits"), near),
  );
  await verifyLoss(check, model, file, expected);
  const { greedy } = expected;
  if (greedy) {
    await check("greedy", () => compareGreedy(model, file, greedy));
    await check("paged", () => comparePaged(model, file, greedy));
  }
  dispose(model.parameters());
}

type Check = (part: string, body: () => Comparison | Promise<Comparison>) => Promise<void>;

/** Token ids [B, T] and their places as tensors of the current scope. */
function batchOf(ids: ArrayLike<number>, rows: number): Omit<TokenBatch, "targets"> {
  const length = ids.length / rows;
  const i32 = (values: ArrayLike<number>) => tensor(values, [rows, length], "i32");
  return { tokens: i32(ids), positions: i32(Array.from(ids, (_, i) => i % length)) };
}

function rowsOf(file: TensorFile): number {
  return file.get("input_ids").shape[0];
}

/** Logits of the reference's input; `each` sees the hidden states. */
export function logitsOf(model: CausalLM, file: TensorFile, each?: (x: Tensor) => void): Tensor {
  const batch = batchOf(file.integers("input_ids"), rowsOf(file));
  return model.logits(model.hidden(batch.tokens, batch, each));
}

async function forward(model: CausalLM, file: TensorFile) {
  const states: Tensor[] = [];
  const logits = scope(() =>
    noGrad(() => ({ logits: logitsOf(model, file, (x) => states.push(x)), states })),
  );
  try {
    const hidden = [];
    for (const state of states) hidden.push(await state.data());
    return { logits: await logits.logits.data(), hidden };
  } finally {
    dispose(logits);
  }
}

async function compareHidden(model: CausalLM, file: TensorFile): Promise<Comparison> {
  const { hidden } = await forward(model, file);
  const count = file.names().filter((n) => /^hidden\.\d+$/.test(n)).length;
  if (hidden.length !== count)
    throw new KilnError(`the model has ${hidden.length} hidden states, the reference ${count}`);
  return worst(hidden.map((state, i) => compare(state, file.floats(`hidden.${i}`), near, `hidden.${i}`)));
}

async function verifyLoss(
  check: Check,
  model: CausalLM,
  file: TensorFile,
  expected: ModelExpectation,
): Promise<void> {
  const { loss, gradients } = await differentiate(model, file, model.namedParameters());
  await check("loss", () => compare([loss], [expected.loss], near));
  await check("gradients", () => compareGradients(gradients, file));
  await check("grad_norm", () => {
    let squares = 0;
    for (const values of gradients.values()) for (const v of Array.from(values)) squares += v * v;
    return compare([Math.sqrt(squares)], [expected.grad_norm], { atol: 0, rtol: share });
  });
}

/** The mean loss of the reference's labels, and its derivatives by name. */
export async function differentiate(
  model: CausalLM,
  file: TensorFile,
  parameters: ReadonlyMap<string, Parameter>,
) {
  const rows = rowsOf(file);
  const targets = nextTokens(file.integers("labels"), rows);
  const supervised = targets.filter((t) => t !== -100).length;
  const named = [...parameters];
  const made = scope(() => {
    const batch = batchOf(file.integers("input_ids"), rows);
    const labels = tensor(targets, batch.tokens.shape, "i32");
    const loss = mul(model.loss({ ...batch, targets: labels }), 1 / supervised);
    const leaves = named.map(([, parameter]) => parameter);
    return { loss, gradients: grads(loss, leaves) };
  });
  const gradients = new Map<string, ArrayLike<number>>();
  for (const [i, [name, parameter]] of named.entries()) {
    const gradient = made.gradients[i];
    gradients.set(name, gradient ? await gradient.data() : new Float32Array(parameter.size));
  }
  const loss = await made.loss.item();
  dispose(made);
  return { loss, gradients };
}

/** Each gradient of the file; `nameOf` is what a parameter is called that the file gives another name. */
export function compareGradients(
  gradients: ReadonlyMap<string, ArrayLike<number>>,
  file: TensorFile,
  nameOf = (name: string) => name,
): Comparison {
  const names = file.names().filter((name) => name.startsWith("grad."));
  return worst(
    names.map((name) => {
      const parameter = nameOf(name.slice("grad.".length));
      const got = gradients.get(parameter);
      if (!got) throw new KilnError(`the model has no parameter ${parameter}`);
      const want = file.floats(name);
      const largest = want.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      return compare(got, want, { atol: share * largest }, name);
    }),
  );
}

/**
 * The likeliest token after each place of a greedy row must be the next one. One pass over the whole row shows what
 * generating it token by token would.
 */
async function compareGreedy(model: CausalLM, file: TensorFile, greedy: number[][]): Promise<Comparison> {
  const prompt = promptLength(file, greedy);
  const comparisons: Comparison[] = [];
  for (const row of greedy) {
    const logits = scope(() =>
      noGrad(() => {
        const batch = batchOf(row, 1);
        return model.logits(model.hidden(batch.tokens, batch));
      }),
    );
    const values = await logits.data();
    dispose(logits);
    const width = values.length / row.length;
    const likeliest = row.map((_, i) => argmax(values.subarray(i * width, (i + 1) * width)));
    comparisons.push(compare(likeliest.slice(prompt - 1, -1), row.slice(prompt), { atol: 0 }));
  }
  return worst(comparisons);
}

/** How many tokens of the greedy rows were given, not generated: those that all rows share with the input. */
function promptLength(file: TensorFile, greedy: number[][]): number {
  const ids = file.integers("input_ids");
  const width = file.get("input_ids").shape[1];
  const shared = greedy.map((row, r) => {
    const differs = row.findIndex((id, i) => i >= width || id !== ids[r * width + i]);
    return differs < 0 ? row.length : differs;
  });
  const length = Math.min(...shared);
  if (length < 1) throw new KilnError("the greedy rows do not begin with the input");
  return length;
}

/** All rows generated together, token by token, through the paged cache with its blocks out of order. */
async function comparePaged(model: CausalLM, file: TensorFile, greedy: number[][]): Promise<Comparison> {
  const blockSize = 8;
  const blocks = Math.ceil(Math.max(...greedy.map((row) => row.length)) / blockSize);
  const numBlocks = blocks * greedy.length;
  const decoder = new PagedDecoder(model, {
    numBlocks,
    blockSize,
    maxSequences: greedy.length,
    maxBlocksPerSequence: blocks,
  });
  try {
    const prompt = promptLength(file, greedy);
    const tables = greedy.map((_, r) =>
      Array.from({ length: blocks }, (_, b) => numBlocks - 1 - (b * greedy.length + r)),
    );
    const rows = greedy.map((row) => row.slice(0, prompt));
    let start = 0;
    while (rows[0].length < greedy[0].length) {
      const items: PagedItem[] = rows.map((row, r) => {
        const tokens = row.slice(start);
        return { tokens, start, blockTable: tables[r], rows: [tokens.length - 1] };
      });
      start = rows[0].length;
      const logits = await decoder.forward(items);
      for (const [r, row] of rows.entries()) row.push(argmax(logits[r][0]));
    }
    return worst(greedy.map((row, r) => compare(rows[r], row, { atol: 0 }, `row ${r}`)));
  } finally {
    decoder.close();
  }
}
