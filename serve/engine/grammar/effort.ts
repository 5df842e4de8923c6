import { invalid, type RequestError } from "../errors.ts";

/** Steps of compiling one form: at most some 200 ms of a busy core. */
const MOST_STEPS = 100_000;

/** What compiling a form may still cost: counted and not timed, so that a form is refused always or never. */
export class Effort {
  /** The request field that is compiled. */
  readonly param: string;
  #left = MOST_STEPS;

  constructor(param: string) {
    this.param = param;
  }

  /** @throws RequestError when all is spent. */
  spend(steps = 1): void {
    this.#left -= steps;
    if (this.#left < 0) throw this.refused("is too complex: simplify its alternatives and repetitions");
  }

  refused(why: string): RequestError {
    return invalid(this.param, `${this.param} ${why}`);
  }
}
