import { grads } from "../../core/autograd.ts";
import { KilnError } from "../../core/errors.ts";
import { dispose, scope } from "../../core/scope.ts";
import { noGrad } from "../../core/tape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { mul } from "../../kernels/index.ts";
import { type AnyModel, createModel, readModelConfig } from "../../models/architectures.ts";
import type { CausalLM } from "../../models/decoder.ts";
import { Encoder } from "../../models/encoder.ts";
import { EncoderDecoder } from "../../models/encoder_decoder.ts";
import { loadWeights } from "../../models/formats/hf_directory.ts";
import { readModelWeights } from "../../models/formats/safetensors.ts";
import type { Model, TokenBatch } from "../../models/model.ts";
import { PagedDecoder, type PagedItem } from "../../models/paged_decoder.ts";
import { argmax } from "../../models/sampling.ts";
import type { Parameter } from "../../nn/index.ts";
import { answererSubject, compareAnswers, type Generation } from "./answerers.ts";
import { encoderSubject } from "./encoders.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";

/** `expected.json` of a model. */
export interface ModelExpectation {
  /** Name of the transformers class. */
  class?: string;
  /** Absent of a model without a head; then there are no gradients. */
  loss?: number;
  grad_norm?: number;
  num_parameters?: number;
  /** For each row its prompt (the first tokens of the input) and the likeliest tokens after it. */
  greedy?: number[][];
  /** Of an encoder-decoder: what it generates with these settings, without padding. */
  generations?: Generation[];
}

/**
 * Tolerances: hidden states, logits and the loss to 1e-4; each gradient to 1e-3 of its tensor's largest value, the norm
 * of all to 1e-3 of itself. They leave room for float32 sums in any order, and none for another formula.
 */
export const near = { atol: 1e-4 };
const share = 1e-3;
/**
 * A gradient that is 0 by its formula (that of a key's bias, which moves all scores alike) is rounding in the reference too,
 * below `noise` of the largest of all: then it has to be 0 up to `dust` of that.
 */
const noise = 1e-12;
const dust = 1e-6;
/** Names of what a pass may result in. */
const results = ["logits", "start_logits", "end_logits", "hidden", "encoder", "decoder", "mean", "cls"];

/** Loads a model's directory: shape and weights, no tokenizer. */
export async function loadFixture(path: string): Promise<AnyModel> {
  const model = createModel(await readModelConfig(path));
  loadWeights(model, await readModelWeights(path));
  return model;
}

/** What a model makes of the batches in a file. Names of a batch's tensors end in `suffix`; all is made in the current scope. */
export interface Subject {
  model: Model<never>;
  /** Results under the names that the file gives them; `each` sees the hidden states. */
  forward(each: (x: Tensor) => void): Record<string, Tensor>;
  /** What the model's loss reads. */
  inputs(suffix?: string): object;
  /** How many labels the loss is the mean of. */
  supervised(suffix?: string): number;
}

export function subjectOf(model: AnyModel, file: TensorFile): Subject {
  if (model instanceof Encoder) return encoderSubject(model, file);
  return model instanceof EncoderDecoder ? answererSubject(model, file) : decoderSubject(model, file);
}

/** Labels as transformers takes them (label i belongs to token i) turned into the next token of each place. */
export function nextTokens(labels: Int32Array, rows: number): Int32Array {
  const length = labels.length / rows;
  return labels.map((_, i) => ((i + 1) % length === 0 ? -100 : labels[i + 1]));
}

/** Hidden states, logits, loss, every gradient, and of a decoder greedy tokens. */
export async function verifyModel(report: Report, folder: Folder, expected: ModelExpectation): Promise<void> {
  const name = folder.name || "model";
  const parts = [
    ...results,
    "loss",
    "gradients",
    "grad_norm",
    "num_parameters",
    "greedy",
    "paged",
    "generate",
  ];
  if (!parts.some((part) => report.wants(`${name}/${part}`))) return;
  const file = new TensorFile(folder, "expected");
  const model = await loadFixture(folder.path);
  const subject = subjectOf(model, file);
  const { greedy, generations, num_parameters: size, loss } = expected;
  const check: Check = (part, body) => report.check(`${name}/${part}`, body);
  if (size !== undefined)
    await check("num_parameters", () => compare([model.numParameters], [size], { atol: 0 }));
  const found = await forward(subject);
  for (const result of results) {
    const names = file.names().filter((each) => each.replace(/\.\d+$/, "") === result);
    if (names.length > 0)
      await check(result, () => worst(names.map((each) => compareResult(found, file, each))));
  }
  if (loss !== undefined) await verifyLoss(check, subject, file, expected);
  if (model instanceof EncoderDecoder) {
    // The reference's greedy rows go on behind their stop tokens.
    const options = { eos_token_id: null, max_new_tokens: (greedy?.[0].length ?? 2) - 1 };
    if (greedy) await check("greedy", () => compareAnswers(model, file, [{ options, ids: greedy }]));
    if (generations) await check("generate", () => compareAnswers(model, file, generations));
  } else if (greedy && !(model instanceof Encoder)) {
    await check("greedy", () => compareGreedy(model, file, greedy));
    await check("paged", () => comparePaged(model, file, greedy));
  }
  dispose(model.stateDict());
}

function decoderSubject(model: CausalLM, file: TensorFile): Subject {
  const rowsOf = (suffix: string) => file.get(`input_ids${suffix}`).shape[0];
  const targets = (suffix: string) => nextTokens(file.integers(`labels${suffix}`), rowsOf(suffix));
  const batch = (suffix: string) => batchOf(file.integers(`input_ids${suffix}`), rowsOf(suffix));
  return {
    model,
    forward(each) {
      const { tokens, ...context } = batch("");
      return { logits: model.logits(model.hidden(tokens, context, each)) };
    },
    inputs(suffix = "") {
      const { tokens, positions } = batch(suffix);
      return { tokens, positions, targets: tensor(targets(suffix), tokens.shape, "i32") };
    },
    supervised: (suffix = "") => targets(suffix).filter((t) => t !== -100).length,
  };
}

type Check = (part: string, body: () => Comparison | Promise<Comparison>) => Promise<void>;

/** Token ids [B, T] and their places as tensors of the current scope. */
function batchOf(ids: ArrayLike<number>, rows: number): Omit<TokenBatch, "targets"> {
  const length = ids.length / rows;
  const i32 = (values: ArrayLike<number>) => tensor(values, [rows, length], "i32");
  return { tokens: i32(ids), positions: i32(Array.from(ids, (_, i) => i % length)) };
}

/** Results by name, and the hidden states as hidden.0, hidden.1 … */
export async function forward(subject: Subject): Promise<Map<string, ArrayLike<number>>> {
  const states: Tensor[] = [];
  const made = scope(() => noGrad(() => ({ results: subject.forward((x) => states.push(x)), states })));
  const found = new Map<string, ArrayLike<number>>();
  for (const [name, result] of Object.entries(made.results)) found.set(name, await result.data());
  for (const [i, state] of states.entries()) found.set(`hidden.${i}`, await state.data());
  dispose(made);
  return found;
}

function compareResult(found: Map<string, ArrayLike<number>>, file: TensorFile, name: string): Comparison {
  const values = found.get(name);
  if (!values) throw new KilnError(`the model has no ${name}`);
  return compare(values, file.floats(name), near, name);
}

async function verifyLoss(
  check: Check,
  subject: Subject,
  file: TensorFile,
  expected: ModelExpectation,
): Promise<void> {
  const { loss, gradients } = await differentiate(subject, subject.model.namedParameters());
  await check("loss", () => compare([loss], [expected.loss!], near));
  await check("gradients", () => compareGradients(gradients, file));
  await check("grad_norm", () => {
    let squares = 0;
    for (const values of gradients.values()) for (const v of Array.from(values)) squares += v * v;
    return compare([Math.sqrt(squares)], [expected.grad_norm!], { atol: 0, rtol: share });
  });
}

/** The mean loss of the reference's labels, and its derivatives by name. */
export async function differentiate(subject: Subject, parameters: ReadonlyMap<string, Parameter>) {
  const named = [...parameters];
  const made = scope(() => {
    const loss = mul(subject.model.loss(subject.inputs() as never), 1 / subject.supervised());
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
  const largestOf = (name: string) => file.floats(name).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  const largestOfAll = Math.max(...names.map(largestOf));
  return worst(
    names.map((name) => {
      const parameter = nameOf(name.slice("grad.".length));
      const got = gradients.get(parameter);
      if (!got) throw new KilnError(`the model has no parameter ${parameter}`);
      const want = file.floats(name);
      const largest = largestOf(name);
      const atol = largest < noise * largestOfAll ? dust * largestOfAll : share * largest;
      return compare(got, want, { atol }, name);
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
