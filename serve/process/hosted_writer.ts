import { constraintFrom } from "../engine/constraint.ts";
import { Grammars } from "../engine/grammar/index.ts";
import type { EnginePort } from "../engine/port.ts";
import type { EngineEvent } from "../engine/types.ts";
import { adapterTokenizer } from "../lora.ts";
import type { Frontend } from "../text/frontend.ts";
import { writtenError } from "./errors.ts";
import type { Report, WritingReport, WrittenEvent, WrittenRequest } from "./messages.ts";
import type { Outbox } from "./outbox.ts";

/** A model that writes, in the process of the engines. */
export class HostedWriter {
  readonly #name: string;
  readonly #frontend: Frontend;
  readonly #engine: EnginePort;
  readonly #outbox: Outbox<Report>;
  /** By adapter; null: of the model alone. */
  readonly #grammars = new Map<string | null, Grammars>();
  #events: WrittenEvent[] = [];
  #steps: number[] = [];
  #seen = 0;
  /** Of the sequence that ends now. */
  #queuedMs: number | null = null;

  constructor(name: string, frontend: Frontend, outbox: Outbox<Report>) {
    this.#name = name;
    this.#frontend = frontend;
    const { engine } = frontend;
    this.#engine = engine;
    this.#outbox = outbox;
    this.#grammars.set(null, new Grammars(frontend.tokenizer, engine.runner.vocabSize));
    engine.observe({
      accepted: () => {},
      stepped: (tokens) => {
        this.#steps.push(tokens);
        this.#touch();
      },
      token: () => {},
      ended: (_request, _finish, { accepted, started }) => {
        this.#queuedMs = started === null ? null : started - accepted;
      },
    });
  }

  write(turn: number, requests: readonly WrittenRequest[]): void {
    this.#seen = turn;
    this.#touch();
    try {
      this.#engine.submit(
        requests.map(({ constraint: spec, ...request }) => {
          const grammars = this.#grammars.get(request.adapter)!;
          const { vocabSize } = this.#engine.runner;
          const constraint = spec === null ? null : constraintFrom(spec, grammars, vocabSize);
          return { request: { ...request, constraint }, listener: (event) => this.#hear(request.id, event) };
        }),
      );
    } catch (error) {
      for (const { id } of requests)
        this.#events.push({ id, ...NOTHING, finish: "error", error: writtenError(error), queuedMs: null });
    }
  }

  abort(id: string, finish: "abort" | "stop"): void {
    this.#engine.abort(id, finish);
    this.#touch();
  }

  async adapt(adapter: string, path: string): Promise<void> {
    const tokenizer = await adapterTokenizer(path, this.#frontend);
    await this.#engine.runner.adapters!.add(adapter, path);
    this.#grammars.set(adapter, new Grammars(tokenizer, this.#engine.runner.vocabSize));
  }

  async release(adapter: string): Promise<void> {
    this.#grammars.delete(adapter);
    await this.#engine.runner.adapters!.remove(adapter);
  }

  #hear(id: string, event: EngineEvent): void {
    const queuedMs = event.finish === null ? null : this.#queuedMs;
    const error = event.error === null ? null : writtenError(event.error);
    this.#events.push({ ...event, id, error, queuedMs });
    this.#touch();
  }

  #touch(): void {
    this.#outbox.pushLate(this.#report);
  }

  readonly #report = (): WritingReport => {
    const [events, steps] = [this.#events, this.#steps];
    [this.#events, this.#steps] = [[], []];
    const { queue } = this.#engine;
    const stats = this.#engine.stats();
    return { tell: "written", model: this.#name, events, steps, stats, queue, seen: this.#seen };
  };
}

const NOTHING = { token: null, scored: [], cachedTokens: 0 } as const;
