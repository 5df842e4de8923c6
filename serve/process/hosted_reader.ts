import type { EncodedText } from "../../models/text_rows.ts";
import type { EncoderPort, EncoderRun } from "../engine/port.ts";
import { writtenError } from "./errors.ts";
import type { ReadingReport, Report } from "./messages.ts";
import type { Outbox } from "./outbox.ts";

/** An encoder in the process of the engines. */
export class HostedReader {
  readonly #name: string;
  readonly #engine: EncoderPort;
  readonly #outbox: Outbox<Report>;
  readonly #runs = new Map<number, EncoderRun>();
  #ended: ReadingReport["ended"][number][] = [];
  #seen = 0;

  constructor(name: string, engine: EncoderPort, outbox: Outbox<Report>) {
    this.#name = name;
    this.#engine = engine;
    this.#outbox = outbox;
  }

  read(turn: number, client: string, texts: readonly EncodedText[]): void {
    this.#seen = turn;
    this.#touch();
    try {
      const run = this.#engine.submit(client, texts);
      this.#runs.set(turn, run);
      run.done.then(
        (numbers) => this.#end({ turn, numbers, error: null }),
        (error) => this.#end({ turn, numbers: [], error: writtenError(error) }),
      );
    } catch (error) {
      this.#end({ turn, numbers: [], error: writtenError(error) });
    }
  }

  cancel(turn: number): void {
    this.#runs.get(turn)?.cancel();
  }

  #end(ending: ReadingReport["ended"][number]): void {
    this.#runs.delete(ending.turn);
    this.#ended.push(ending);
    this.#touch();
  }

  #touch(): void {
    this.#outbox.pushLate(this.#report);
  }

  readonly #report = (): ReadingReport => {
    const ended = this.#ended;
    this.#ended = [];
    const { queue } = this.#engine;
    const stats = this.#engine.stats();
    return { tell: "readings", model: this.#name, ended, stats, queue, seen: this.#seen };
  };
}
