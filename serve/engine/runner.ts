import { definedOnly } from "../../core/defined_only.ts";
import { device } from "../../core/device.ts";
import { byteSize } from "../../core/dtype.ts";
import { KilnError } from "../../core/errors.ts";
import { MOST_DRAWN, settingsRow } from "../../kernels/index.ts";
import type { CausalLM, DecoderShape } from "../../models/decoder.ts";
import { readAdapter } from "../../models/formats/peft_directory.ts";
import { PagedDecoder, type PagedItem, type SampledIds } from "../../models/paged_decoder.ts";
import type { ComputeDtype } from "../../nn/index.ts";
import { drawSettings, isPlain, notFinite, sampleRow, scoreRow } from "./sampler.ts";
import type { AdapterHost, ItemResult, RunItem, Runner, TokenLogprob } from "./types.ts";

export interface RunnerOptions {
  /** Tokens of the longest prompt plus answer; default and at most the model's max_position_embeddings. */
  maxModelLen?: number;
  /** Positions per block. */
  blockSize?: number;
  /** Sequences that one step may hold. */
  maxSequences?: number;
  /** Room for keys and values of all sequences together, in bytes; default 256 MiB. */
  cacheBytes?: number;
  /** Adapters that there may be beside each other, and the rank that one may have. */
  maxAdapters?: number;
  maxRank?: number;
}

/**
 * Runs the engine's steps on a model. The device chooses the tokens of a step where all are chosen of the logits as they are
 * and no log probabilities are wanted; else the logits come to the host, which chooses in the same whole numbers (or, of
 * greedy tokens, by the same bits): an answer cannot depend on where, nor on how many others are in the step.
 */
export class ModelRunner implements Runner {
  readonly vocabSize: number;
  readonly maxModelLen: number;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly adapters: AdapterHost = {
    add: (name, path) => this.#addAdapter(name, path),
    remove: async (name) => {
      this.#decoder.adapters.remove(name);
      await device().trim?.();
    },
  };
  readonly #model: CausalLM;
  readonly #decoder: PagedDecoder;
  /** The last step, if the next may take its tokens on the device. */
  #last: LastStep | null = null;

  constructor(model: CausalLM, options: RunnerOptions = {}) {
    this.#model = model;
    const { shape } = model;
    const plan = cachePlan(shape, model.computeDtype, options);
    const { maxModelLen, blockSize, maxSequences, blocksPerSequence } = plan;
    this.vocabSize = shape.vocab_size;
    this.maxModelLen = maxModelLen;
    this.blockSize = blockSize;
    this.blockCount = blocksIn(plan, options.cacheBytes ?? defaultCacheBytes);
    if (this.blockCount < blocksPerSequence + 1) {
      throw new KilnError(
        `a context of ${this.maxModelLen} tokens needs ${blocksPerSequence + 1} cache blocks, ` +
          `there is room for ${this.blockCount}; lower --max-model-len or raise --cache-mib`,
      );
    }
    const { maxAdapters, maxRank } = options;
    this.#decoder = new PagedDecoder(
      model,
      { numBlocks: this.blockCount, blockSize, maxSequences, maxBlocksPerSequence: blocksPerSequence },
      definedOnly({ maxAdapters, maxRank }),
    );
  }

  /** A model may be trained, or given another adapter, between two answers. */
  get weights(): string {
    const { adapters, adapter } = this.#model;
    const name = [...adapters.keys()].find((key) => adapters.get(key) === adapter);
    const parameters = [...this.#model.parameters(), ...(adapter?.parameters().values() ?? [])];
    return `${name ?? ""} ${parameters.reduce((sum, { storage }) => sum + storage.version, 0)}`;
  }

  feeds(item: RunItem): boolean {
    return this.#needsIdOnly(item);
  }

  async run(items: readonly RunItem[]): Promise<readonly ItemResult[]> {
    const before = this.#last;
    this.#last = null;
    const paged = items.map((item) => placed(item, before));
    const ids = before?.ids ?? null;
    if (items.every((item) => this.#needsIdOnly(item))) {
      const sampled = this.#decoder.sample(paged, ids);
      // The next step may be given before this one is read, and takes its tokens where it leaves them.
      this.#last = { ids: sampled, index: new Map(items.map(({ id }, i) => [id, i])) };
      const reading = sampled.read();
      ids?.free();
      const values = await reading;
      let next = 0;
      return items.map(({ sample }) => (sample === null ? NOTHING : takeId(values[next++])));
    }
    const running = this.#decoder.forward(paged, ids);
    ids?.free();
    const logits = await running;
    const turns = new Turns();
    const results: ItemResult[] = [];
    for (const [i, item] of items.entries()) results.push(await takeLogits(item, logits[i], turns));
    return results;
  }

  /** Whether the device chooses an item's token and nothing else of its logits is wanted. */
  #needsIdOnly({ sample, score }: RunItem): boolean {
    if (score !== null) return false;
    if (sample === null) return true;
    const { temperature, topK, topP } = sample.params;
    const isFiltered = temperature > 0 && (topK > 0 || topP < 1);
    const most = isFiltered && device().profile.class === "cpu" ? MOST_FILTERED_ON_CPU : MOST_DRAWN;
    return sample.topLogprobs === null && isPlain(sample) && this.vocabSize <= most;
  }

  /**
   * Compiles the kernels of prompts, of a few tokens and of a single one, so that no client waits for that; the steps of other
   * sizes, and those that read logits, have the same. Writes to blocks that nobody owns yet; their first owner writes before
   * it reads.
   */
  async warmUp(): Promise<void> {
    this.#decoder.rehearse(this.#warmLengths, this.vocabSize > MOST_DRAWN ? null : settingsRow(DRAWN));
    await device().sync();
  }

  get #warmLengths(): number[] {
    return [Math.min(16, this.maxModelLen), Math.min(4, this.maxModelLen), 1];
  }

  async #addAdapter(name: string, path: string): Promise<void> {
    const files = await readAdapter(this.#model, path);
    const { adapters } = this.#decoder;
    if ((await device().fits?.(adapters.newBuffers(path, files))) === false) {
      throw new KilnError(`the device has no memory for the adapter ${path}: unload another`, {
        code: "out_of_memory",
      });
    }
    adapters.add(name, path, files);
    try {
      await this.#decoder.prepareAdapted(this.#warmLengths);
    } catch (error) {
      adapters.remove(name);
      throw error;
    }
  }

  /** Frees the cache and the adapters. */
  close(): void {
    this.#last?.ids.free();
    this.#decoder.close();
  }
}

export const defaultCacheBytes = 256 * 2 ** 20;

/** The sizes of a cache of keys and values, and the most blocks that its sequences can use. */
export function cachePlan(shape: DecoderShape, dtype: ComputeDtype, options: RunnerOptions) {
  const { blockSize = 16, maxSequences = 64 } = options;
  const maxModelLen = contextLength(shape.max_position_embeddings, options.maxModelLen);
  const blocksPerSequence = Math.ceil(maxModelLen / blockSize);
  const layerBlockBytes = blockSize * shape.num_key_value_heads * shape.head_dim * byteSize(dtype);
  return {
    ...{ maxModelLen, blockSize, maxSequences, blocksPerSequence, layerBlockBytes },
    blockBytes: layerBlockBytes * 2 * shape.num_hidden_layers,
    mostBlocks: blocksPerSequence * maxSequences + 1,
  };
}

/** Blocks that a cache of so many bytes has on this device. */
export function blocksIn(plan: ReturnType<typeof cachePlan>, cacheBytes: number): number {
  const { blockBytes, layerBlockBytes, mostBlocks } = plan;
  const affordable = Math.min(
    cacheBytes / blockBytes,
    device().profile.maxBindingBytes / layerBlockBytes - 1,
  );
  return Math.min(Math.floor(affordable), mostBlocks);
}

/** Up to this many logits a software adapter searches a row as quickly as the host does; both find the same token. */
const MOST_FILTERED_ON_CPU = 1024;

/** What a step samples, and the number of each request's item in it. */
interface LastStep {
  readonly ids: SampledIds;
  readonly index: ReadonlyMap<string, number>;
}

/** Settings of a draw that does no more than it must, for warming up. */
const DRAWN = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: [0, 0], choice: 0, position: 0 } as const;

const NOTHING: ItemResult = { sampled: null, scored: [] };

/** The context to serve: the model's `positions`, or less if asked. @throws KilnError for more than the model has. */
function contextLength(positions: number, asked = positions): number {
  if (Number.isInteger(asked) && asked >= 1 && asked <= positions) return asked;
  throw new KilnError(
    `a context of ${asked} tokens cannot be served: the model has ${positions} positions; ` +
      `give --max-model-len from 1 to ${positions}, or leave it out`,
    { code: "bad_context_length" },
  );
}

/** The item as the decoder takes it: how its token is drawn, and where the step before leaves the last of its tokens. */
function placed(item: RunItem, before: LastStep | null): PagedItem {
  const { tokens, start, blockTable, rows, adapter, sample } = item;
  const drawn = sample !== null && sample.params.temperature > 0 && isPlain(sample);
  const follows = item.isFed ? before?.index.get(item.id) : undefined;
  if (item.isFed && follows === undefined) {
    throw new Error(`${item.id} is fed, but the step before sampled nothing for it`);
  }
  return {
    ...{ tokens, start, blockTable, rows, adapter },
    ...(drawn && { draw: settingsRow(drawSettings(sample)) }),
    ...(follows !== undefined && { follows }),
  };
}

function takeId(id: number): ItemResult {
  if (id < 0) return { ...NOTHING, error: notFinite().message };
  return { sampled: { id, logprob: null, top: [] }, scored: [] };
}

/** Milliseconds of work on the host after which sockets and timers have a turn. */
const sliceMs = 10;

/** Lets other events through while a step's rows are sampled: with a large vocabulary that may take a second and more. */
class Turns {
  #since = performance.now();

  /** Waits for a turn of the event loop if one is due. */
  async take(): Promise<void> {
    if (performance.now() - this.#since < sliceMs) return;
    await new Promise((resolve) => setImmediate(resolve));
    this.#since = performance.now();
  }
}

/** A row that cannot be sampled (NaN) ends its own request alone. */
async function takeLogits(
  { sample, score }: RunItem,
  logits: readonly Float32Array[],
  turns: Turns,
): Promise<ItemResult> {
  try {
    const sampled = sample ? sampleRow(logits[logits.length - 1], sample) : null;
    await turns.take();
    const scored: TokenLogprob[] = [];
    for (const [i, id] of score?.targets.entries() ?? []) {
      scored.push(scoreRow(logits[i], id, score!.topLogprobs));
      await turns.take();
    }
    return { sampled, scored };
  } catch (error) {
    return { ...NOTHING, error: (error as Error).message };
  }
}
