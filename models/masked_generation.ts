import { checkOptions, KilnError } from "../core/errors.ts";
import { freshSeed, seedWords } from "../core/random.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Encoder } from "./encoder.ts";
import type { Generated, GenerationOptions, TextGeneration } from "./generation.ts";
import { argmax, draw, softmax, uniform, type Warping, warp } from "./sampling.ts";
import { TextReader } from "./text_reader.ts";

export const maskedStrategies = ["mask-predict", "gibbs"] as const;

export interface MaskedGenerationOptions {
  /**
   * `mask-predict` (Ghazvininejad et al. 2019, the default) writes all tokens at once and then again those that the model is
   * least certain of, fewer each time. `gibbs` (Wang & Cho 2019) masks and draws one token after another, in an order that
   * the seed decides.
   */
  strategy?: (typeof maskedStrategies)[number];
  /** How often a text is gone through (10): of mask-predict each is one pass of the model, of gibbs one of each token. */
  iterations?: number;
  /** Of gibbs, the first iterations, which draw from all tokens whatever `top_k`, `top_p` and `min_p` are (half of them). */
  burn_in?: number;
  /** Called after each pass of the model with the share of all. */
  progress?: (share: number) => void;
}

/** A text that is being written: the prompt's tokens, and between them those of `places`. */
interface Draft {
  ids: number[];
  prompt: readonly number[];
  places: readonly number[];
  seed: readonly [number, number];
  choice: number;
  /** By place, the model's probability of the token when it was written. */
  confidence: number[];
}

/**
 * Writes text with a masked language model: after a prompt, in front of the special tokens that end a text, as many tokens as
 * `max_tokens` says, or as fit. The model chooses no length, and no special token is written. A text depends on its prompt,
 * the options and the seed alone, not on what is written beside it.
 */
export class MaskedGenerator implements TextGeneration {
  readonly #reader: TextReader;
  readonly #maskId: number;
  readonly #options: Required<MaskedGenerationOptions>;
  /** Tokens that are not written: special ones, and those that the tokenizer lacks. */
  readonly #banned: readonly number[];

  /** @throws KilnError for a model that guesses no masked tokens, a tokenizer without a mask, and options that cannot be used */
  constructor(model: Encoder, tokenizer: Tokenizer, options: MaskedGenerationOptions = {}) {
    const known = ["strategy", "iterations", "burn_in", "progress"];
    const { strategy = "mask-predict", iterations = 10, ...more } = checkOptions("generator", options, known);
    const { burn_in = Math.floor(iterations / 2), progress = () => {} } = more;
    if (model.task !== "fill-mask")
      throw new KilnError(
        `a ${model.config.architectures[0]} guesses no masked tokens, so it writes no text; take a masked language model or a decoder`,
        { code: "task_unknown" },
      );
    if (tokenizer.maskId === null)
      throw new KilnError("the tokenizer has no mask token; give it one in tokenizer_config.json");
    if (!maskedStrategies.includes(strategy)) throw refuse("strategy", maskedStrategies.join(" or "));
    if (!Number.isInteger(iterations) || iterations < 1) throw refuse("iterations", "a whole number above 0");
    if (!Number.isInteger(burn_in) || burn_in < 0 || burn_in > iterations)
      throw refuse("burn_in", `a whole number up to the ${iterations} iterations`);
    this.#reader = new TextReader(model, tokenizer);
    this.#maskId = tokenizer.maskId;
    this.#options = { strategy, iterations, burn_in, progress };
    this.#banned = Array.from({ length: model.shape.vocab_size }, (_, id) => id).filter(
      (id) => tokenizer.isSpecial(id) || tokenizer.idToToken(id) === null,
    );
  }

  /** @throws KilnError for options out of range, and a prompt that leaves no room in the context */
  async generate(
    prompts: readonly (string | readonly number[])[],
    options: GenerationOptions = {},
  ): Promise<Generated[][]> {
    const { n, max_tokens, seed, warping } = checked(options);
    const [{ ids, sources }] = await this.#reader.tokenizer.encodeTexts(["a"]);
    const closing = ids.slice(sources.findLastIndex((source) => source !== null) + 1);
    const drafts: Draft[][] = [];
    for (const prompt of prompts) {
      // Without chance there is one order too.
      const isFixed = warping.temperature === 0;
      const own = seed ?? (isFixed ? seedWords(0) : freshSeed());
      const given = typeof prompt === "string" ? await this.#reader.tokenizer.encode(prompt) : prompt;
      const draft = (i: number) => this.#draft(given, closing, max_tokens, own, isFixed ? 0 : i);
      drafts.push(Array.from({ length: n }, (_, i) => draft(i)));
    }
    const open = drafts.flat().filter(({ places }) => places.length > 0);
    if (this.#options.strategy === "gibbs") await this.#gibbs(open, warping);
    else await this.#maskPredict(open, warping);
    return drafts.map((several) => several.map((draft) => this.#generated(draft, options.stop ?? [])));
  }

  close(): void {}

  #draft(
    given: readonly number[],
    closing: readonly number[],
    maxTokens: number,
    seed: Draft["seed"],
    choice: number,
  ): Draft {
    const { longest, model } = this.#reader;
    const wrong = given.find((id) => !(Number.isInteger(id) && id >= 0 && id < model.shape.vocab_size));
    if (wrong !== undefined) throw refuse("a token of the prompt", `from 0 to ${model.shape.vocab_size - 1}`);
    if (given.length >= longest && maxTokens > 0)
      throw new KilnError(
        `the prompt has ${given.length} tokens and the model reads ${longest}: there is no room to write; shorten it`,
        { code: "text_length" },
      );
    const isClosed = closing.every((id, i) => given.at(i - closing.length) === id);
    const end = given.length - (isClosed ? closing.length : 0);
    const count = Math.min(maxTokens, longest - given.length);
    const places = Array.from({ length: count }, (_, i) => end + i);
    const ids = [...given.slice(0, end), ...places.map(() => this.#maskId), ...given.slice(end)];
    return { ids, prompt: given.slice(0, end), places, seed, choice, confidence: [] };
  }

  /** In iteration t of T the (T - t) / T least certain tokens are written at the same time, first all of them. */
  async #maskPredict(drafts: readonly Draft[], warping: Warping): Promise<void> {
    const { iterations, progress } = this.#options;
    for (let t = 0; t < iterations; t++) {
      const chosen = drafts.map(({ places, confidence }) =>
        places
          .toSorted((a, b) => (t === 0 ? 0 : confidence[a] - confidence[b]) || a - b)
          .slice(0, Math.floor((places.length * (iterations - t)) / iterations)),
      );
      await this.#rewrite(drafts, chosen, warping, t + 1);
      progress((t + 1) / iterations);
    }
  }

  /** Each iteration writes every token once, given all others, in an order of its own. */
  async #gibbs(drafts: readonly Draft[], warping: Warping): Promise<void> {
    const { iterations, burn_in, progress } = this.#options;
    const longest = drafts.reduce((most, { places }) => Math.max(most, places.length), 0);
    const free = { ...warping, topK: 0, topP: 1, minP: 0 };
    for (let t = 0; t < iterations; t++) {
      const orders = drafts.map(({ places, seed, choice }) => {
        const keys = new Map(places.map((place) => [place, uniform(seed, choice, place, t + 1, 1)]));
        return places.toSorted((a, b) => keys.get(a)! - keys.get(b)! || a - b);
      });
      for (let k = 0; k < longest; k++) {
        const chosen = orders.map((order) => order.slice(k, k + 1));
        await this.#rewrite(drafts, chosen, t < burn_in ? free : warping, t + 1);
        progress((t * longest + k + 1) / (iterations * longest));
      }
    }
  }

  /** Masks the chosen places of each draft and writes them anew, given everything else. */
  async #rewrite(
    drafts: readonly Draft[],
    chosen: readonly (readonly number[])[],
    warping: Warping,
    step: number,
  ): Promise<void> {
    const some = drafts.filter((_, i) => chosen[i].length > 0);
    const places = chosen.filter((own) => own.length > 0);
    some.forEach(({ ids }, i) => {
      for (const place of places[i]) ids[place] = this.#maskId;
    });
    const logits = await this.#reader.logits(some, places);
    const { vocab_size } = this.#reader.model.shape;
    some.forEach(({ ids, confidence, seed, choice }, i) => {
      places[i].forEach((place, k) => {
        const row = Float64Array.from(logits[i].subarray(k * vocab_size, (k + 1) * vocab_size));
        for (const id of this.#banned) row[id] = Number.NEGATIVE_INFINITY;
        const probabilities = softmax(row);
        const isGreedy = warping.temperature === 0;
        const id = isGreedy ? argmax(row) : draw(warp(row, warping), uniform(seed, choice, place, step));
        if (Number.isNaN(probabilities[id]))
          throw new KilnError("the model returned logits that are not finite; look for NaN in its weights");
        ids[place] = id;
        confidence[place] = probabilities[id];
      });
    });
  }

  #generated({ ids, prompt, places }: Draft, stops: readonly string[]): Generated {
    const { tokenizer } = this.#reader;
    const token_ids = places.map((place) => ids[place]);
    const before = tokenizer.decode(prompt);
    const whole = tokenizer.decode([...prompt, ...token_ids]);
    // A decoder may write a prompt otherwise when text follows.
    let from = 0;
    while (from < before.length && before[from] === whole[from]) from++;
    const text = whole.slice(from);
    const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (found.length === 0) return { text, token_ids, finish_reason: "length" };
    return { text: text.slice(0, Math.min(...found)), token_ids, finish_reason: "stop" };
  }
}

const refuse = (what: string, wanted: string) =>
  new KilnError(`${what} must be ${wanted}`, { code: "option_invalid" });

/** The options of `generate`, checked, with defaults. */
function checked(options: GenerationOptions) {
  const known = ["n", "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop"];
  const { n = 1, max_tokens = 256, temperature = 1, ...more } = checkOptions("generate", options, known);
  const { top_k = 0, top_p = 1, min_p = 0, seed } = more;
  if (!Number.isInteger(n) || n < 1) throw refuse("n", "a whole number above 0");
  if (!Number.isInteger(max_tokens) || max_tokens < 0)
    throw refuse("max_tokens", "0 or a whole number above");
  if (!(temperature >= 0 && temperature <= 2)) throw refuse("temperature", "from 0 to 2");
  if (!Number.isInteger(top_k) || top_k < -1) throw refuse("top_k", "a whole number; 0 keeps all tokens");
  if (!(top_p > 0 && top_p <= 1)) throw refuse("top_p", "above 0, up to 1");
  if (!(min_p >= 0 && min_p <= 1)) throw refuse("min_p", "from 0 to 1");
  if (seed !== undefined && typeof seed !== "bigint" && !Number.isSafeInteger(seed))
    throw refuse("seed", "a whole number");
  const warping: Warping = { temperature, topK: Math.max(0, top_k), topP: top_p, minP: min_p };
  return { n, max_tokens, warping, seed: seed === undefined ? null : seedWords(seed) };
}
