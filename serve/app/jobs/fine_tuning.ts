import type { Tokenizer } from "../../../tokenizer/index.ts";
import type { ModelPool, TextModel } from "../../models.ts";
import type { Blobs, Store } from "../../store/index.ts";
import { newId } from "../../store/index.ts";
import type { Queue } from "../../store/queue.ts";
import { AppError } from "../app_error.ts";
import { collected, preferred } from "../collected.ts";
import { blobKey } from "../documents/library.ts";
import type { FineTuneEstimate, FineTuneStarted } from "../protocol.ts";
import { countTokens } from "../retrieval/index.ts";
import { checkQueued } from "./job_list.ts";
import { documentLessons, type exchange, type Lessons } from "./lessons.ts";
import { jobLimits as limits } from "./limits.ts";
import { modelOf } from "./names.ts";
import type { FineTuneParameters, FineTunePayload } from "./payload.ts";

/** Tokens of a row, where the model reads that many; rows and pairs of one forward pass. */
const [LONGEST, ROWS, PAIRS] = [512, 4, 2];
/** Updates of a pass over what is little: it would be over before anything is learned. */
const UPDATES = 10;
/** Measurements without a better one that end a run, a fifth of a long one; what is held out for them. */
const [PATIENCE, HELD_OUT] = [8, 0.1];
/**
 * Steps between measurements and checkpoints: forty times in a run. Those of every few steps would be most of what a long run does,
 * and make who is answered meanwhile wait for the disk.
 */
const between = (steps: number) => Math.min(250, Math.max(10, Math.ceil(steps / 40)));
const [SAMPLES, SAMPLE_TOKENS] = [2, 48];

export type AskedParameters = Partial<FineTuneParameters> & { readonly publish?: string | undefined };

export interface FineTuningOptions {
  readonly store: Store;
  readonly blobs: Blobs;
  readonly queue: Queue;
  readonly pool: ModelPool;
}

/** Takes what a person asks to be taught to a model of their own, as a job. */
export class FineTuning {
  readonly #options: FineTuningOptions;

  constructor(options: FineTuningOptions) {
    this.#options = options;
  }

  /** What there is to learn from, and how long it would take. @throws AppError 422 as `start` */
  async estimate(userId: string, asked: AskedParameters): Promise<FineTuneEstimate> {
    return (await this.#plan(userId, asked)).estimate;
  }

  /**
   * @throws AppError 422 where there is too little to learn from, with the counts, and for a base that cannot be adapted; 409 where
   * the same is being done, 429 where too many wait
   */
  async start(userId: string, { publish, ...asked }: AskedParameters): Promise<FineTuneStarted> {
    const { blobs, queue } = this.#options;
    const { model, parameters, lessons, room, estimate } = await this.#plan(userId, asked);
    await this.#checkRoom(userId, parameters);
    const key = blobKey(userId, `jobs/${newId()}.jsonl`);
    const rows = lessons.rows.map((row) => `${row}\n`).join("");
    if (rows !== "") await blobs.put(key, [Buffer.from(rows)]);
    const payload: FineTunePayload = {
      ...{ parameters, recipe: parameters.method === "dpo" ? "preference" : "sft" },
      settings: settingsOf(model, parameters, lessons, room, between(estimate.steps)),
      files: [...lessons.files, ...(rows === "" ? [] : [{ key, ending: "jsonl" }])],
      ...{ name: modelOf(userId), base: /@\d+$/.test(model.name) ? model.name : model.path! },
      ...(publish === undefined ? {} : { publish }),
    };
    const job_id = await queue.add({
      ...{ kind: "finetune", userId, payload, maxAttempts: limits.attempts },
      dedupeKey: sameAs(userId, parameters),
    });
    return { job_id, estimate };
  }

  async #plan(userId: string, asked: AskedParameters) {
    const model = this.#base(asked.base);
    const dataset = asked.dataset ?? (await this.#datasetOf(userId, asked.method));
    const parameters: FineTuneParameters = {
      ...{ epochs: 5, learning_rate: 1e-3, rank: 8, method: dataset === "corrections" ? "dpo" : "lora" },
      ...{ ...asked, dataset, base: model.name },
    };
    if ((parameters.method === "dpo") !== (dataset === "corrections"))
      throw refused("method", "dpo learns from corrections, and nothing else does");
    const room = Math.min(model.maxModelLen, LONGEST);
    const lessons = await this.#lessons(userId, dataset, model.frontend.tokenizer, room);
    checkEnough(lessons);
    const { examples, tokens } = lessons;
    const perEpoch =
      dataset === "corrections"
        ? examples / PAIRS
        : Math.max(tokens / (ROWS * room), Math.min(UPDATES, examples));
    const steps = Math.max(1, Math.ceil(parameters.epochs * (1 - HELD_OUT) * perEpoch));
    // Weights twice, since those of the adapted model are written too, and what one row of a batch keeps of each layer, about.
    const bytes = 2 * (model.facts?.bytes ?? 0) + ROWS * room * (model.frontend.engine.runner.vocabSize * 8);
    return { model, parameters, lessons, room, estimate: { examples, tokens, steps, bytes } };
  }

  #base(asked: string | undefined): TextModel {
    const models = [...this.#options.pool].map(([name, model]) => ({ name, model }));
    const found = models.find(
      ({ name, model }) =>
        model.kind === "text" && model.parent === null && (asked === undefined || name === asked),
    )?.model;
    if (found?.kind === "text" && found.path !== null) return found;
    const names = models.flatMap(({ name, model }) =>
      model.kind === "text" && model.parent === null ? [name] : [],
    );
    throw refused(
      "base",
      found
        ? `${found.name} was not loaded from files, which training needs`
        : `must be a model that writes here: ${names.join(", ") || "there is none"}`,
    );
  }

  /** Documents, where there are any. */
  async #datasetOf(userId: string, method: string | undefined): Promise<FineTuneParameters["dataset"]> {
    if (method === "dpo") return "corrections";
    const [any] = await this.#options.store.all(
      "SELECT id FROM document WHERE user_id = ? AND state = 'ready' LIMIT 1",
      [userId],
    );
    return any ? "documents" : "conversations";
  }

  async #lessons(
    userId: string,
    dataset: FineTuneParameters["dataset"],
    tokenizer: Tokenizer,
    room: number,
  ): Promise<Lessons> {
    const { store } = this.#options;
    if (dataset === "documents") return documentLessons(store, userId, tokenizer, room);
    const rows: object[] = [];
    if (dataset === "corrections") {
      for (const { prompt, chosen, rejected } of await preferred(store, userId, (id) => id))
        rows.push({ prompt, chosen, rejected });
    } else {
      for await (const { messages, metadata } of collected(store, userId, (id) => id)) {
        const { correction, rating } = metadata;
        if (correction !== undefined)
          rows.push({
            messages: [...messages.slice(0, -1), { role: "assistant", content: `${correction}` }],
          });
        else if (rating !== -1) rows.push({ messages });
      }
    }
    const lines = rows.map((row) => JSON.stringify(row));
    const tokens = lines.reduce((sum, line) => sum + countTokens(line), 0);
    return { files: [], rows: lines, examples: lines.length, tokens };
  }

  async #checkRoom(userId: string, parameters: FineTuneParameters): Promise<void> {
    const { store } = this.#options;
    const open = await store.all<{ id: string; dedupe_key: string | null }>(
      "SELECT id, dedupe_key FROM job WHERE user_id = ? AND kind = 'finetune' AND state IN ('queued', 'running')",
      [userId],
    );
    const same = open.find(({ dedupe_key }) => dedupe_key === sameAs(userId, parameters));
    if (same) throw new AppError(409, "already_running", `the job ${same.id} does this: wait, or cancel it`);
    await checkQueued(store, userId);
  }
}

const refused = (param: string, why: string) =>
  new AppError(422, "invalid_parameters", `parameters.${param}: ${why}`, `parameters.${param}`);

const sameAs = (userId: string, parameters: FineTuneParameters) =>
  `finetune ${userId} ${JSON.stringify(Object.entries(parameters).sort(([a], [b]) => (a < b ? -1 : 1)))}`;

function checkEnough({ examples, tokens }: Lessons): void {
  if (examples >= limits.examples || tokens >= limits.tokens) return;
  throw new AppError(
    422,
    "too_little_data",
    `there are ${examples} examples with ${tokens} tokens to learn from, and it takes ${limits.examples} examples or ${limits.tokens} tokens: give more`,
    "parameters.dataset",
  );
}

/** The settings of `kiln train`. */
function settingsOf(
  { path, frontend }: TextModel,
  { epochs, learning_rate, rank, method }: FineTuneParameters,
  { rows }: Lessons,
  sequence_length: number,
  every: number,
): FineTunePayload["settings"] {
  const isPreference = method === "dpo";
  return {
    model: { init_from: path, plain_turns: frontend.tokenizer.chatTemplate === null },
    data: { validation_fraction: HELD_OUT, ...(isPreference ? {} : { min_updates: UPDATES }) },
    adapter: {
      ...{ kind: method === "qlora" ? "qlora" : "lora", rank, alpha: 2 * rank, targets: ["all-linear"] },
    },
    train: { epochs, learning_rate, batch_size: isPreference ? PAIRS : ROWS, sequence_length },
    eval: { every, patience: PATIENCE },
    checkpoint: { every },
    ...(isPreference ? {} : { sample: { every: 0, ...sampled(rows) } }),
  };
}

/** A few questions of what is learned, answered before and after. */
function sampled(rows: readonly string[]) {
  const asked = rows.flatMap((row) => {
    const { messages } = JSON.parse(row) as ReturnType<typeof exchange>;
    return messages.find(({ role }) => role === "user")?.content ?? [];
  });
  const prompts = [...new Set(asked)].slice(0, SAMPLES);
  return { max_tokens: SAMPLE_TOKENS, temperature: 0, ...(prompts.length > 0 ? { prompts } : {}) };
}
