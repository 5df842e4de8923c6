import type { EncodedText } from "../../models/text_rows.ts";
import { LIMITS } from "../limits.ts";
import type { DeviceShare } from "./device_share.ts";
import type { EncoderRunner } from "./encoder_runner.ts";
import {
  asRequestError,
  closedByClient,
  cutOff,
  type RequestError,
  shuttingDown,
  unresponsive,
  waitedTooLong,
} from "./errors.ts";
import type { EncoderPort, EncoderRun, EncoderStats, EngineState } from "./port.ts";
import { assertRoom, type Queue, type QueueSize, sizeOf } from "./queues.ts";
import type { FinishReason } from "./types.ts";
import { watched, within } from "./watchdog.ts";

export interface EncoderEngineOptions {
  readonly runner: EncoderRunner;
  /** Whom the device is shared with. */
  readonly share: DeviceShare;
  /** Called with each failure whose details clients do not see. */
  readonly onError?: (error: unknown) => void;
  readonly limits?: Partial<Pick<typeof LIMITS, "queuedTexts" | "queuedTokens" | "queueWaitMs" | "stepMs">>;
  /** Monotonic time in milliseconds. */
  readonly now?: () => number;
}

/** Texts of one request. */
class Job {
  readonly client: string;
  readonly texts: readonly EncodedText[];
  /** Those that wait, by the length of their rows, the next one last. */
  readonly waiting = new Map<number, number[]>();
  readonly giveUpAt: number;
  readonly results: Float32Array[];
  /** Texts without a result. */
  missing: number;
  started = false;
  readonly done: Promise<readonly Float32Array[]>;
  end!: { resolve: (results: Float32Array[]) => void; reject: (error: RequestError) => void };

  constructor(
    client: string,
    texts: readonly EncodedText[],
    rowLength: (tokens: number) => number,
    at: number,
  ) {
    this.client = client;
    this.texts = texts;
    this.giveUpAt = at;
    this.missing = texts.length;
    this.results = new Array(texts.length);
    for (let i = texts.length - 1; i >= 0; i--) {
      const row = rowLength(texts[i].ids.length);
      const others = this.waiting.get(row);
      if (others) others.push(i);
      else this.waiting.set(row, [i]);
    }
    this.done = new Promise((resolve, reject) => {
      this.end = { resolve, reject };
    });
    // Without a listener (a client that left), a rejection must not end the process.
    this.done.catch(() => {});
  }
}

/** A text of a batch: of which request, and which of its texts. */
interface Member {
  readonly job: Job;
  readonly index: number;
}

const FAILING_AFTER = 3;
/** Tokens of the first batch, before anything is known of the time that one takes. */
const firstBatchTokens = 512;

/**
 * Runs texts through one encoder, in batches of texts of about one length. Clients take turns at the first place in a batch;
 * what room is left, others' texts of that length fill. A batch has as many tokens as lately fitted the time that the
 * device's share gives it (see `DeviceShare`). Each accepted request ends exactly once.
 */
export class EncoderEngine implements EncoderPort {
  readonly runner: EncoderRunner;
  readonly #share: DeviceShare;
  readonly #limits: typeof LIMITS;
  readonly #onError: (error: unknown) => void;
  readonly #now: () => number;
  /** Requests that have not ended by client; the client whose turn it is first. */
  readonly #clients = new Map<string, Set<Job>>();
  readonly #finished: Record<FinishReason, number> = { stop: 0, length: 0, abort: 0, error: 0 };
  #loop: Promise<void> | null = null;
  #draining = false;
  #hung = false;
  #failures = 0;
  #batchTokens = firstBatchTokens;
  #running = 0;
  #batches = 0;
  #promptTokens = 0;
  #accepted = 0;

  constructor({ runner, share, limits, onError = () => {}, now }: EncoderEngineOptions) {
    this.runner = runner;
    this.#share = share;
    this.#limits = { ...LIMITS, ...limits };
    this.#onError = onError;
    this.#now = now ?? (() => performance.now());
  }

  get state(): EngineState {
    if (this.#hung) return "hung";
    if (this.#draining) return "draining";
    return this.#failures >= FAILING_AFTER ? "failing" : "ready";
  }

  stats(): EncoderStats {
    return {
      state: this.state,
      running: this.#running,
      waiting: sizeOf(this.queue.values()).sequences,
      batches: this.#batches,
      promptTokens: this.#promptTokens,
      accepted: this.#accepted,
      finished: { ...this.#finished },
    };
  }

  /** What waits, by client: of one whose texts all run, nothing. */
  get queue(): Queue {
    return new Map([...this.#clients].map(([client, jobs]) => [client, sizeOf([...jobs].map(waitingOf))]));
  }

  checkRoom(client: string, sequences: number, tokens: number): void {
    if (this.#hung) throw unresponsive();
    if (this.#draining) throw shuttingDown();
    const { queuedTexts, queuedTokens } = this.#limits;
    const limit = { sequences: queuedTexts, tokens: queuedTokens };
    assertRoom(this.queue, client, { sequences, tokens }, limit, "texts");
  }

  submit(client: string, texts: readonly EncodedText[]): EncoderRun {
    const tokens = texts.reduce((sum, { ids }) => sum + ids.length, 0);
    this.checkRoom(client, texts.length, tokens);
    const { runner } = this;
    const giveUpAt = this.#now() + this.#limits.queueWaitMs;
    const job = new Job(client, texts, (length) => runner.rowLength(length), giveUpAt);
    const jobs = this.#clients.get(client);
    if (jobs) jobs.add(job);
    else this.#clients.set(client, new Set([job]));
    this.#accepted++;
    this.#promptTokens += tokens;
    this.#loop ??= this.#work();
    return { done: job.done, cancel: () => void this.#end(job, "abort", closedByClient()) };
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    await within(this.#loop, timeoutMs);
    this.#failAll(cutOff());
  }

  *#jobs(): Generator<Job> {
    for (const jobs of this.#clients.values()) yield* jobs;
  }

  async #work(): Promise<void> {
    try {
      while (this.#clients.size > 0) {
        // Sockets and timers get a turn, even where no batch waits for a device.
        await new Promise((resolve) => setImmediate(resolve));
        this.#dropStale();
        if (this.#clients.size > 0) await this.#share.batch((ms) => this.#batch(ms));
      }
    } catch (error) {
      this.#onError(error);
      this.#failAll(error);
    } finally {
      this.#loop = null;
    }
  }

  /** Computes the next batch, which should take so many milliseconds. */
  async #batch(ms: number): Promise<void> {
    const { row, members } = this.#take();
    if (members.length === 0) return;
    for (const { job } of members) job.started = true;
    this.#batches++;
    this.#running = members.length;
    const begin = this.#now();
    try {
      const results = await this.#watched(this.runner.run(members.map(({ job, index }) => job.texts[index])));
      if (results.length !== members.length) throw new Error("the encoder returned another number of texts");
      this.#failures = 0;
      for (const [i, { job, index }] of members.entries()) this.#settle(job, index, results[i]);
    } catch (error) {
      this.#failures++;
      this.#onError(error);
      for (const job of new Set(members.map((member) => member.job))) this.#fail(job, error);
    } finally {
      this.#running = 0;
      this.#adapt(members.length * row, ms, this.#now() - begin);
    }
  }

  /** The texts of the next batch. */
  #take(): { row: number; members: Member[] } {
    const members: Member[] = [];
    const [first] = this.#clients;
    if (first === undefined) return { row: 0, members };
    const [client, jobs] = first;
    this.#clients.delete(client);
    this.#clients.set(client, jobs);
    const row =
      [...jobs]
        .find(({ waiting }) => waiting.size > 0)
        ?.waiting.keys()
        .next().value ?? 0;
    const most = Math.max(1, Math.floor(this.#batchTokens / row));
    for (const job of [...jobs, ...this.#jobs()]) {
      const waiting = job.waiting.get(row);
      if (waiting === undefined) continue;
      while (waiting.length > 0 && members.length < most) members.push({ job, index: waiting.pop()! });
      if (waiting.length === 0) job.waiting.delete(row);
      if (members.length === most) break;
    }
    return { row, members };
  }

  /** Makes batches larger or smaller, so that one takes about as long as it should. */
  #adapt(tokens: number, wantedMs: number, tookMs: number): void {
    const factor = Math.min(Math.max(wantedMs / Math.max(tookMs, 1e-3), 0.25), 2);
    // A batch that was small for want of texts says nothing of larger ones.
    if (factor > 1 && tokens * 2 < this.#batchTokens) return;
    this.#batchTokens = Math.min(Math.max(tokens * factor, 1), this.runner.maxBatchTokens);
  }

  #settle(job: Job, index: number, numbers: Float32Array): void {
    if (!numbers.every(Number.isFinite)) {
      const error = new Error("the encoder's numbers are not finite (NaN or infinity)");
      this.#onError(error);
      this.#fail(job, error);
      return;
    }
    job.results[index] = numbers;
    job.missing--;
    if (job.missing === 0) this.#end(job, "stop");
  }

  #fail(job: Job, cause: unknown): void {
    this.#end(job, "error", asRequestError(cause));
  }

  #failAll(error: unknown): void {
    for (const job of [...this.#jobs()]) this.#fail(job, error);
  }

  #dropStale(): void {
    const now = this.#now();
    for (const job of [...this.#jobs()]) {
      if (job.started || now < job.giveUpAt) continue;
      this.#fail(job, waitedTooLong());
    }
  }

  /** The only place that ends a request. Does nothing for one that has ended. */
  #end(job: Job, finish: FinishReason, error?: RequestError): void {
    const jobs = this.#clients.get(job.client);
    if (!jobs?.delete(job)) return;
    if (jobs.size === 0) this.#clients.delete(job.client);
    this.#finished[finish]++;
    if (error) job.end.reject(error);
    else job.end.resolve(job.results);
  }

  /** Fails all requests, and refuses new ones, while a batch takes longer than a step may. */
  async #watched<T>(batch: Promise<T>): Promise<T> {
    const hang = () => {
      this.#hung = true;
      this.#failAll(unresponsive());
    };
    try {
      return await watched(batch, this.#limits.stepMs, hang);
    } finally {
      this.#hung = false;
    }
  }
}

/** Texts that wait, and their tokens. */
function waitingOf({ waiting, texts }: Job): QueueSize {
  const indices = [...waiting.values()].flat();
  return { sequences: indices.length, tokens: indices.reduce((sum, i) => sum + texts[i].ids.length, 0) };
}
