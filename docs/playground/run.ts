import { dispose, KilnError, type WebGpuDevice } from "kiln";
import {
  LlamaForCausalLM,
  loadWeights,
  parseSafetensors,
  readTensors,
  serializeSafetensors,
  tinyllmConfig,
  toFloat32,
} from "kiln/models";
import { Tokenizer, type TokenizerJson, trainBpe } from "kiln/tokenizer";
import { AdamW, countTokens, type DataCursor, PackedBatches, scheduleFactor, Trainer } from "kiln/train";
import { type Corpus, documentsOf, encode, nameOf } from "./corpus.ts";
import { type RunState, type Settings, type StepReport, sizes } from "./protocol.ts";

/** What decides a run: with it and a `Snapshot` training goes on as if it had never stopped. */
export interface Plan {
  settings: Settings;
  corpus: Corpus;
  tokenizer: TokenizerJson;
}

/** Where a run is. */
export interface Snapshot {
  step: number;
  cursor: DataCursor;
  losses: number[];
  /** safetensors: the model's weights, and what the optimizer keeps. */
  weights: Uint8Array<ArrayBuffer>;
  optimizer: Uint8Array<ArrayBuffer>;
}

type Say = (line: string) => void;
const seed = 1;
const endOfText = "<|endoftext|>";

/** A TinyLLM in training. */
export class Run {
  readonly plan: Plan;
  readonly model: LlamaForCausalLM;
  readonly tokenizer: Tokenizer;
  readonly #trainer: Trainer;
  readonly #batches: PackedBatches;
  #losses: number[] = [];
  #step = 0;

  private constructor(plan: Plan, tokenizer: Tokenizer, batches: PackedBatches) {
    const { settings } = plan;
    this.plan = plan;
    this.tokenizer = tokenizer;
    this.#batches = batches;
    this.model = new LlamaForCausalLM(configOf(settings, tokenizer));
    const optimizer = new AdamW(this.model.namedParameters(), { betas: [0.9, 0.95], weightDecay: 0.1 });
    this.#trainer = new Trainer(this.model, optimizer, { maxGradNorm: 1, sequenceLength: settings.context });
  }

  /** A new run. @throws KilnError for a text shorter than a row, and sizes that the device cannot hold. */
  static async start(settings: Settings, corpus: Corpus, device: WebGpuDevice, say: Say): Promise<Run> {
    await checkRoom(settings, device);
    say("learning the tokens");
    const { vocabulary } = sizes[settings.size];
    const json = trainBpe(documentsOf(corpus), { vocab_size: vocabulary, special_tokens: [endOfText] });
    const run = await Run.#make({ settings, corpus, tokenizer: json }, say);
    run.model.init(seed);
    return run;
  }

  /** A run that goes on from where it was kept. */
  static async resume(plan: Plan, snapshot: Snapshot, say: Say): Promise<Run> {
    const run = await Run.#make(plan, say);
    run.restore(snapshot);
    return run;
  }

  static async #make(plan: Plan, say: Say): Promise<Run> {
    const { settings, corpus } = plan;
    const names = { bos_token: endOfText, eos_token: endOfText, model_max_length: settings.context };
    const tokenizer = new Tokenizer(plan.tokenizer, { tokenizer_config: names });
    const percent = (share: number) => say(`reading the text: ${Math.floor(100 * share)} %`);
    const tokens = await encode(documentsOf(corpus), tokenizer, percent);
    if (countTokens(tokens.documents) <= settings.context)
      throw new KilnError(
        `the text has ${countTokens(tokens.documents)} tokens, fewer than a row of ${settings.context}: choose a shorter context, or give more text.`,
      );
    const packing = { batchSize: sizes[settings.size].rows, seqLen: settings.context, seed };
    return new Run(plan, tokenizer, new PackedBatches(tokens, tokens.documents, packing));
  }

  get done(): boolean {
    return this.#step >= this.plan.settings.steps;
  }

  state(training: boolean): RunState {
    const { settings, corpus } = this.plan;
    return {
      settings,
      corpus: nameOf(corpus),
      parameters: this.model.numParameters,
      vocabulary: this.tokenizer.vocabSize,
      step: this.#step,
      losses: [...this.#losses],
      training,
    };
  }

  /** Compiles the kernels of a step. */
  prepare(): Promise<void> {
    const cursor = this.#batches.state();
    const batch = this.#batches.next();
    this.#batches.restore(cursor);
    return this.#trainer.prepare([batch]);
  }

  /** One update. @throws KilnError where the loss is no number any more. */
  async step(): Promise<StepReport> {
    const { learningRate, steps } = this.plan.settings;
    const schedule = {
      name: "cosine" as const,
      warmup_steps: Math.min(20, Math.ceil(steps / 10)),
      total_steps: steps,
      min_lr_ratio: 0.1,
    };
    const start = performance.now();
    const batch = this.#batches.next();
    // From step 1 on: a rate of 0 would waste the first.
    const rate = learningRate * scheduleFactor(schedule, this.#step + 1);
    const { lossSum, gradNorm, supervised } = this.#trainer.step([batch], rate);
    const loss = (await lossSum.item()) / supervised;
    dispose([lossSum, gradNorm]);
    if (!Number.isFinite(loss))
      throw new KilnError(
        `step ${this.#step + 1}: the loss is no number any more: start a new run with a lower learning rate, such as ${Number((learningRate / 10).toPrecision(1))}.`,
      );
    this.#step++;
    this.#losses.push(loss);
    const seconds = (performance.now() - start) / 1000;
    return { step: this.#step, loss, tokensPerSecond: batch.tokens.length / seconds };
  }

  async snapshot(): Promise<Snapshot> {
    const bytes = async (tensors: Parameters<typeof readTensors>[0]) =>
      serializeSafetensors(await readTensors(tensors));
    return {
      step: this.#step,
      cursor: this.#batches.state(),
      losses: [...this.#losses],
      weights: await bytes(this.model.stateDict()),
      optimizer: await bytes(this.#trainer.state()),
    };
  }

  /** Puts a snapshot of this run back. */
  restore({ step, cursor, losses, weights, optimizer }: Snapshot): void {
    loadWeights(this.model, parseSafetensors(weights, "the kept weights"));
    const kept = parseSafetensors(optimizer, "the kept optimizer");
    this.#trainer.restore(step, (name) => {
      const tensor = kept.get(name);
      return tensor && toFloat32(tensor);
    });
    this.#batches.restore(cursor);
    this.#step = step;
    this.#losses = [...losses];
  }
}

function configOf({ size, context }: Settings, tokenizer: Pick<Tokenizer, "vocabSize" | "bosId" | "eosId">) {
  const { hidden, layers, heads } = sizes[size];
  return tinyllmConfig({
    vocab_size: tokenizer.vocabSize,
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    max_position_embeddings: context,
    bos_token_id: tokenizer.bosId,
    eos_token_id: tokenizer.eosId,
  });
}

/** Bytes that a run needs on the device: weights, gradients and both moments, and the activations of a step, roughly. */
export function roomFor({ size, context }: Settings): { largest: number; all: number } {
  const { hidden, layers, vocabulary, rows } = sizes[size];
  const weights = 4 * (vocabulary * hidden + layers * 12 * hidden * hidden);
  const activations = 4 * rows * context * (layers * 24 * hidden + vocabulary);
  return { largest: 4 * rows * context * Math.max(vocabulary, 4 * hidden), all: 4 * weights + activations };
}

/** @throws KilnError where the adapter is too small */
async function checkRoom(settings: Settings, device: WebGpuDevice): Promise<void> {
  const { largest, all } = roomFor(settings);
  const most = device.profile.maxBindingBytes;
  // In pieces, as tensors are.
  const pieces = Array.from({ length: Math.ceil(all / 2 ** 26) }, () => 2 ** 26);
  if (largest <= most && (await device.fits(pieces))) return;
  throw new KilnError(
    `this adapter is too small for the size ${settings.size} with a context of ${settings.context}, which needs about ${Math.ceil(all / 2 ** 20)} MiB: choose a smaller size or a shorter context.`,
  );
}
