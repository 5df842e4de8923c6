import { connect } from "node:net";
import OpenAI, { type ClientOptions } from "openai";
import { afterEach } from "vitest";
import { Engine, type EngineOptions } from "../serve/engine/engine.ts";
import type { EnginePort } from "../serve/engine/port.ts";
import { sampleRow, scoreRow } from "../serve/engine/sampler.ts";
import { Scheduler } from "../serve/engine/scheduler.ts";
import type { Sequence } from "../serve/engine/sequence.ts";
import type {
  EngineEvent,
  ItemResult,
  Request,
  RunItem,
  Runner,
  SampledToken,
  SampleSpec,
  Sampling,
  TokenLogprob,
} from "../serve/engine/types.ts";
import { createServer, type Server, type ServerOptions } from "../serve/index.ts";
import { type Tokenizer, withChatTemplate } from "../tokenizer/index.ts";
import { checkedFetch } from "./support/checked_fetch.ts";
import { fakeTokenizer } from "./support/fake_tokenizer.ts";
import { checkAnswer, checkRequest, checkSchema } from "./support/openai_schemas.ts";

export interface FakeOptions {
  vocabSize?: number;
  maxModelLen?: number;
  blockSize?: number;
  blockCount?: number;
  /** A step may be given before the results of the one before it are there. */
  overlap?: boolean;
}

export { fakeTokenizer };

/** What a fake cache holds of one position: its token, and a hash of it and all before it, as K and V depend on them. */
interface Slot {
  readonly token: number;
  readonly position: number;
  readonly hash: number;
}

/**
 * A model without a device: the logits of a row are a hash of all tokens up to it, as read back from a paged cache that
 * the step wrote through the block tables. A slot that belongs to another sequence, is stale, or was never written
 * therefore changes the answer or throws; so does a write to a block that another item of the step reads.
 */
class FakeRunner implements Runner {
  readonly vocabSize: number;
  readonly maxModelLen: number;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly #cache: (Slot | undefined)[] = [];
  steps = 0;
  /** Called before each step; may throw, wait, or abort requests. */
  before: (items: readonly RunItem[]) => unknown = () => {};
  /** Makes the row of one item fail. */
  failItem: (item: RunItem) => string | undefined = () => undefined;
  largestStep = 0;
  /** Items that were given before their last token was known. */
  fed = 0;
  readonly feeds: (item: RunItem) => boolean;
  /** The last step, and what it sampled for each request. */
  #last = Promise.resolve<Sampled>(new Map());
  /** Tokens that every answer must consist of, instead of what the model would say; the end of text follows. */
  says: readonly number[] | null = null;

  constructor(options: FakeOptions = {}) {
    this.vocabSize = options.vocabSize ?? 32;
    this.maxModelLen = options.maxModelLen ?? 128;
    this.blockSize = options.blockSize ?? 4;
    this.blockCount = options.blockCount ?? 256;
    // A sampler on a device has no history.
    this.feeds = ({ sample, score }) =>
      options.overlap === true && score === null && (sample === null || hasNoPenalty(sample));
  }

  run(given: readonly RunItem[]): Promise<ItemResult[]> {
    this.fed += given.filter(({ isFed }) => isFed).length;
    const tables = given.map(({ blockTable }) => blockTable.slice());
    const results = this.#last.then((sampled) =>
      this.#step(given.map((item, i) => ({ ...item, ...fill(item, sampled), blockTable: tables[i] }))),
    );
    this.#last = results.then(
      (all) => new Map(all.map(({ sampled }, i) => [given[i].id, sampled?.id])),
      () => new Map(given.map(({ id }) => [id, undefined])),
    );
    return results;
  }

  async #step(items: readonly RunItem[]): Promise<ItemResult[]> {
    this.steps++;
    await this.before(items);
    this.largestStep = Math.max(
      this.largestStep,
      items.reduce((sum, { tokens }) => sum + tokens.length, 0),
    );
    checkWrites(items, this.blockSize);
    const orphan = ({ tokens }: RunItem) => tokens.includes(-1);
    for (const item of items) if (!orphan(item)) this.#write(item);
    return items.map((item) => (orphan(item) ? ORPHAN : this.#compute(item)));
  }

  #write(item: RunItem): void {
    item.tokens.forEach((token, i) => {
      const position = item.start + i;
      const before = position === 0 ? FIRST : this.#cache[this.#slot(item, position - 1)]!.hash;
      this.#cache[this.#slot(item, position)] = { token, position, hash: hashed(before, token) };
    });
  }

  #slot(item: RunItem, position: number): number {
    const block = item.blockTable[Math.floor(position / this.blockSize)];
    if (block === undefined || block < 0 || block >= this.blockCount)
      throw new Error("position without a block");
    return block * this.blockSize + (position % this.blockSize);
  }

  #compute(item: RunItem): ItemResult {
    const error = this.failItem(item);
    if (error !== undefined) return { sampled: null, scored: [], error };
    const context: number[] = [];
    let hash = FIRST;
    const read = (end: number) => {
      for (let position = context.length; position < end; position++) {
        const slot = this.#cache[this.#slot(item, position)];
        if (slot?.position !== position)
          throw new Error(`position ${position} of ${item.id} was read before written`);
        hash = hashed(hash, slot.token);
        if (slot.hash !== hash) throw new Error(`position ${position} of ${item.id} follows another prefix`);
        context.push(slot.token);
      }
      return context;
    };
    const scored: TokenLogprob[] = [];
    item.score?.targets.forEach((target, i) => {
      const row = fakeLogits(read(item.start + item.rows[i] + 1), this.vocabSize);
      scored.push(scoreRow(row, target, item.score!.topLogprobs));
    });
    const row = fakeLogits(read(item.start + item.tokens.length), this.vocabSize);
    const { says } = this;
    if (says !== null && item.sample !== null) {
      const { position, promptLength } = item.sample;
      row[says[position - promptLength] ?? 0] = 100;
    }
    return { sampled: item.sample === null ? null : sampleRow(row, item.sample), scored };
  }
}

const hasNoPenalty = ({ params }: SampleSpec) =>
  params.repetitionPenalty === 1 && params.frequencyPenalty === 0 && params.presencePenalty === 0;

/** The token of each request of a step, if it sampled one. */
type Sampled = ReadonlyMap<string, number | undefined>;

/** The tokens of an item, with the one that the step before sampled; -1 stays where that failed. */
function fill({ id, tokens, isFed }: RunItem, sampled: Sampled): { tokens: readonly number[] } {
  if (!isFed) return { tokens };
  if (!sampled.has(id) || tokens.at(-1) !== -1) throw new Error(`nothing is fed to ${id}`);
  return { tokens: [...tokens.slice(0, -1), sampled.get(id) ?? -1] };
}

const ORPHAN: ItemResult = { sampled: null, scored: [], error: "the step before failed" };

/** No item writes to a block that is in another's table. */
function checkWrites(items: readonly RunItem[], blockSize: number): void {
  const holders = new Map<number, string[]>();
  for (const { id, blockTable } of items)
    for (const block of blockTable) holders.set(block, [...(holders.get(block) ?? []), id]);
  for (const { id, blockTable, start, tokens } of items) {
    const last = Math.floor((start + tokens.length - 1) / blockSize);
    for (const block of blockTable.slice(Math.floor(start / blockSize), last + 1))
      if (holders.get(block)!.length > 1)
        throw new Error(`${id} writes to block ${block}, which is in the tables of ${holders.get(block)}`);
  }
}

/** The hash of no tokens, and of one token after others (FNV-1a). */
const FIRST = 0x811c9dc5;
const hashed = (before: number, token: number) => Math.imul(before ^ (token + 1), 0x01000193) >>> 0;

/** Logits in -4..4 that depend on every token of the context. */
export function fakeLogits(context: readonly number[], vocabSize: number): Float32Array {
  const hash = context.reduce(hashed, FIRST);
  return Float32Array.from({ length: vocabSize }, (_, i) => {
    let x = (hash ^ Math.imul(i + 1, 0x9e3779b9)) >>> 0;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) >>> 0;
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35) >>> 0;
    return (((x ^ (x >>> 16)) >>> 0) / 2 ** 32) * 8 - 4;
  });
}

/** What a request must give, computed without engine, blocks or cache. */
export function expected(request: Request, vocabSize: number): SampledToken[] {
  const history = [...request.prompt];
  const out: SampledToken[] = [];
  while (out.length < request.maxTokens) {
    const token = sampleRow(fakeLogits(history, vocabSize), {
      params: request.sampling,
      history,
      promptLength: request.prompt.length,
      position: history.length,
      banned: out.length < request.minTokens ? request.stopTokenIds : null,
      constraint: request.constraint,
      topLogprobs: request.topLogprobs,
    });
    history.push(token.id);
    out.push(token);
    if (request.stopTokenIds.has(token.id) && out.length > request.minTokens) break;
  }
  return out;
}

export const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: new Map(),
  seed: [0, 0],
  choice: 0,
};

let requests = 0;

export function makeRequest(options: Partial<Request> = {}): Request {
  return {
    id: `r${requests++}`,
    client: "one",
    prompt: [1, 2, 3],
    sampling: GREEDY,
    maxTokens: 8,
    minTokens: 0,
    stopTokenIds: new Set(),
    constraint: null,
    priority: 0,
    topLogprobs: 0,
    scorePrompt: false,
    adapter: null,
    cacheSalt: null,
    ...options,
  };
}

/** A scheduler whose sequences can be listed. */
export class ListedScheduler extends Scheduler {
  readonly #added = new Set<Sequence>();

  override add(request: Request): Sequence {
    const sequence = super.add(request);
    this.#added.add(sequence);
    return sequence;
  }

  sequences(): Sequence[] {
    for (const one of this.#added) if (this.get(one.request.id) !== one) this.#added.delete(one);
    return [...this.#added];
  }
}

/** Submits a request and collects its events; `end` resolves at its one ending and checks that nothing follows. */
export function collect(
  engine: EnginePort,
  request: Request,
  onEvent: (event: EngineEvent) => void = () => {},
) {
  const tokens: SampledToken[] = [];
  const scored: TokenLogprob[] = [];
  let endings = 0;
  let resolve: (event: EngineEvent) => void;
  const end = new Promise<EngineEvent>((done) => {
    resolve = done;
  });
  engine.submit([
    {
      request,
      listener: (event) => {
        if (endings > 0) throw new Error(`${request.id}: event after its end`);
        if (event.token !== null) tokens.push(event.token);
        scored.push(...event.scored);
        if (event.finish !== null) {
          endings++;
          resolve(event);
        }
        onEvent(event);
      },
    },
  ]);
  return { request, tokens, scored, end, endings: () => endings };
}

export function makeEngine(options: FakeOptions & Omit<EngineOptions, "runner"> = {}) {
  const runner = new FakeRunner(options);
  return { runner, engine: new Engine({ ...options, runner }) };
}

/** Every block is free and nothing runs or waits: must hold whenever all requests have ended. */
export function idle(engine: EnginePort) {
  const { running, waiting, blocksUsed, accepted, finished } = engine.stats();
  const ended = finished.stop + finished.length + finished.abort + finished.error;
  return { running, waiting, blocksUsed, open: accepted - ended };
}

export const IDLE = { running: 0, waiting: 0, blocksUsed: 0, open: 0 };

/** The same with ChatML, whose special tokens follow the vocabulary. */
export function fakeChatTokenizer(): Tokenizer {
  return withChatTemplate(fakeTokenizer());
}

/** What clients were told of their tokens: by requests that ended, and by those that run. */
interface Told {
  ended: number;
  readonly running: Set<{ readonly completionTokens: number }>;
}

/** The engines of a test file's servers, and what each server has told its clients. */
const started: { engine: EnginePort; told: Told }[] = [];

/** What an engine counts agrees with what clients were told: at any moment, whether or not requests have ended. */
afterEach(() => {
  for (const { engine, told: counts } of started) {
    const { accepted, finished, running, waiting, generatedTokens } = engine.stats();
    const ended = Object.values(finished).reduce((sum, count) => sum + count, 0);
    const told = [...counts.running].reduce((sum, job) => sum + job.completionTokens, counts.ended);
    if (ended + running + waiting !== accepted)
      throw new Error(`${accepted} accepted, but ${ended} ended, ${running} run and ${waiting} wait`);
    if (told !== generatedTokens)
      throw new Error(`${generatedTokens} tokens were generated, but usage says ${told}`);
  }
});

/** Follows the jobs of a server, of which `usage` is made; none is kept longer than it runs. */
function toldBy({ models }: Server): Told {
  const told: Told = { ended: 0, running: new Set() };
  models.watch((model) => {
    if (model.kind !== "text") return;
    const { frontend } = model;
    const start = frontend.start.bind(frontend);
    frontend.start = async (...request) => {
      const job = await start(...request);
      told.running.add(job);
      const end = () => {
        told.running.delete(job);
        told.ended += job.completionTokens;
      };
      job.done.then(end, end);
      return job;
    };
  });
  return told;
}

/** OpenAI's client of a server; what it sends and gets is checked by OpenAI's schemas. */
export function officialClient(url: string, options: ClientOptions = {}): OpenAI {
  const defaults = { baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, fetch: checkedFetch };
  return new OpenAI({ ...defaults, ...options });
}

/** A server over the fake model on a free port of 127.0.0.1, its tokenizer, and the official client pointed at it. */
export async function startServer(
  options: FakeOptions & Partial<ServerOptions> & { host?: string; tokenizer?: Tokenizer } = {},
) {
  const tokenizer = options.tokenizer ?? fakeTokenizer();
  const runner = new FakeRunner({ vocabSize: tokenizer.vocabSize, ...options });
  const errors: unknown[] = [];
  const server = createServer({
    modelName: "tiny/fake",
    onError: (error) => errors.push(error),
    ...options,
    // Tests may think longer between two requests than a server keeps a connection by default.
    limits: { keepAliveMs: 120_000, ...("limits" in options ? options.limits : {}) },
    runner,
    tokenizer,
  });
  started.push({ engine: server.engine, told: toldBy(server) });
  const url = await server.listen({ port: 0, ...(options.host ? { host: options.host } : {}) });
  const client = officialClient(url, { apiKey: [options.apiKey ?? "none"].flat()[0] });
  return { tokenizer, runner, server, engine: server.engine, url, client, errors };
}

export type TestServer = Awaited<ReturnType<typeof startServer>>;

/** A request as curl would send it (W2, W5): what comes back must be as OpenAI's schemas say, and have a request id. */
export async function send(url: string, init: RequestInit & { json?: unknown } = {}) {
  const { json, ...rest } = init;
  const body = json === undefined ? {} : { method: "POST", body: JSON.stringify(json) };
  const headers = { ...(json === undefined ? {} : { "content-type": "application/json" }), ...init.headers };
  const response = await fetch(url, { ...body, ...rest, headers });
  if (response.headers.get("x-request-id") === null) throw new Error("response without x-request-id");
  const text = await response.text();
  const isJson = response.headers.get("content-type")?.includes("application/json") ?? false;
  const parsed = isJson && text !== "" ? JSON.parse(text) : null;
  checkRequest(new URL(url).pathname, response, body.body ?? init.body);
  if (init.method !== "HEAD" && response.status !== 204) checkAnswer(new URL(url).pathname, response, text);
  return { status: response.status, headers: response.headers, text, body: parsed };
}

/** Sends bytes as they are; returns all that comes back until the server closes. */
export function raw(url: string, text: string | Uint8Array): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(text));
    let answer = "";
    socket.on("data", (data) => {
      answer += data;
    });
    socket.on("close", () => resolve(answer));
    socket.on("error", reject);
  });
}

export function checkEnvelope(body: unknown): void {
  checkSchema("ErrorResponse", body);
}

/** Waits until a condition holds; the bound only stops a failing test. */
export async function until(condition: () => boolean, mostMs = 30_000): Promise<void> {
  const deadline = performance.now() + mostMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`never came true: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
