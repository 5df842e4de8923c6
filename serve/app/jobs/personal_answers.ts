import { InTurn } from "../../../core/platform/in_turn.ts";
import { Registry } from "../../../models/registry/registry.ts";
import { adapterTokenizer } from "../../lora.ts";
import type { ModelPool, TextModel } from "../../models.ts";
import { Frontend } from "../../text/frontend.ts";
import { AppError, notFound } from "../app_error.ts";
import type {
  AnswerRequest,
  AnswerSource,
  Noticed,
  RunningAnswer,
  TextListener,
  Turn,
} from "../chat/answers.ts";
import { answerWith, countWith } from "../chat/local_answers.ts";
import type { ModelInfo } from "../protocol.ts";
import { isPersonal, modelOf } from "./names.ts";

/** A person's adapter, and what answers with it. */
interface Personal {
  readonly userId: string;
  readonly name: string;
  readonly number: number;
  readonly aliases: Record<string, number>;
  readonly path: string;
  readonly base: TextModel;
  readonly frontend: Frontend;
  /** What the model calls it. */
  readonly adapter: string;
  /** Whether it is on the device. */
  isLoaded: boolean;
  /** Answers that are being written with it. */
  answers: number;
}

/**
 * The answers of a source, and of the model that each person fine-tuned: an adapter, which is put beside its base when its owner
 * asks, and makes room for others' when it was not asked for longest. Nobody else can ask for it, or learns that it is there.
 */
export class PersonalAnswers {
  readonly #pool: ModelPool;
  readonly #source: AnswerSource;
  readonly #registry: Registry;
  /** By the model's name; what was used last is last. */
  readonly #known = new Map<string, Personal>();
  /** Loads and unloads, one after the other. */
  readonly #working = new InTurn();

  constructor(pool: ModelPool, source: AnswerSource, registry = new Registry()) {
    this.#pool = pool;
    this.#source = source;
    this.#registry = registry;
  }

  /** As a source of answers. */
  get source(): AnswerSource {
    const source = this.#source;
    return {
      models: () => source.models(),
      versionOf: (model) => this.#versionOf(model) ?? source.versionOf(model),
      ...(source.listed && { listed: () => source.listed!() }),
      ...(source.providers && { providers: (isAdmin: boolean) => source.providers!(isAdmin) }),
      parameters: (model) =>
        this.#known.has(model)
          ? (this.#known.get(model)!.base.facts?.parameters ?? null)
          : (source.parameters?.(model) ?? null),
      own: (userId, asked) => this.#own(userId, asked),
      ownListed: (userId) => this.#listed(userId),
      contextLength: (model) => this.#known.get(model)?.base.maxModelLen ?? source.contextLength(model),
      count: (model, turns) => this.#count(model, turns),
      start: (request, onText, onNotice) =>
        this.#known.has(request.model)
          ? this.#start(request, onText, onNotice)
          : source.start(request, onText, onNotice),
      close: () => source.close?.(),
    };
  }

  /** Forgets a person's model. */
  async forget(userId: string): Promise<void> {
    const known = this.#known.get(modelOf(userId));
    if (known === undefined) return;
    this.#known.delete(known.name);
    await this.#working.do(() => this.#unload(known));
  }

  #versionOf(model: string): string | null {
    const known = this.#known.get(model);
    return known ? `${known.name}@${known.number}` : null;
  }

  async #own(userId: string, asked: string | null): Promise<string | null> {
    const name = modelOf(userId);
    const bare = asked?.replace(/@live$/, "") ?? null;
    if (bare !== null && bare !== name) {
      // Another's is refused in the same words as what is not there.
      if (isPersonal(bare)) this.#source.contextLength(bare);
      return null;
    }
    const found = await this.#of(userId);
    if (found === null && bare !== null)
      throw new AppError(
        404,
        "model_not_found",
        "you have no model of your own for what this server has: fine-tune one",
        "model",
      );
    return found?.name ?? null;
  }

  async #listed(userId: string): Promise<ModelInfo | null> {
    const found = await this.#of(userId);
    if (found === null) return null;
    const { name, number: version, aliases, base } = found;
    return {
      ...{ name, kind: "adapter", state: "ready", progress: null, error: null, log: null, chat: true },
      ...{ provider: "local", parameters: base.facts?.parameters ?? null, context_length: base.maxModelLen },
      ...{ tokens_per_second: null, version, aliases, examples: [] },
    };
  }

  /** A person's live version; null without one, and where its base is not served. */
  async #of(userId: string): Promise<Personal | null> {
    const name = modelOf(userId);
    const { aliases } = await this.#registry.model(name);
    const number = aliases.live;
    const known = this.#known.get(name);
    if (known && known.number === number && this.#pool.get(known.base.name) === known.base) return known;
    const made = number === undefined ? null : await this.#open(userId, name, number, aliases);
    // Another request may have been quicker.
    const now = this.#known.get(name);
    if (now && now !== known && now.number === number) return now;
    this.#known.delete(name);
    if (known) this.#working.do(() => this.#unload(known)).catch(() => {});
    if (made) this.#known.set(name, made);
    return made;
  }

  async #open(
    userId: string,
    name: string,
    number: number,
    aliases: Record<string, number>,
  ): Promise<Personal | null> {
    const found = await this.#registry.find(`${name}@${number}`).catch(() => null);
    const base = found && this.#baseOf(found.base);
    if (!found || !base) return null;
    const { engine, tokenizer } = base.frontend;
    const own = await adapterTokenizer(found.path, base.frontend);
    // Fifty people need one copy.
    const shared = own.hash() === tokenizer.hash() && own.chatTemplate === tokenizer.chatTemplate;
    const adapter = `${name}@${number} ${found.content_sha256.slice(0, 16)}`;
    const frontend = new Frontend(engine, shared ? tokenizer : own, this.#pool.limits, adapter);
    const { path } = found;
    return { userId, name, number, aliases, path, base, frontend, adapter, isLoaded: false, answers: 0 };
  }

  #baseOf(reference: string | null): TextModel | null {
    const all = [...this.#pool].map(([, model]) => model);
    const found = all.find(
      ({ name, path }) => reference !== null && (name === reference || path === reference),
    );
    return found?.kind === "text" && found.parent === null ? found : null;
  }

  #count(model: string, turns: readonly Turn[]): Promise<number> {
    const known = this.#known.get(model);
    return known ? countWith(known.frontend, turns) : this.#source.count(model, turns);
  }

  async #start(
    request: AnswerRequest,
    onText: TextListener,
    onNotice?: (notice: Noticed) => void,
  ): Promise<RunningAnswer> {
    const known = this.#known.get(request.model)!;
    if (known.userId !== request.client) throw notFound("model");
    const held = this.#pool.hold();
    known.answers++;
    const release = () => {
      known.answers--;
      held.release();
    };
    try {
      held.get(known.base.name);
      await this.#working.do(() => this.#load(known));
      this.#known.delete(known.name);
      this.#known.set(known.name, known);
      return await answerWith(known.frontend, `${known.name}@${known.number}`, request, {
        onText,
        onNotice,
        ended: release,
      });
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Puts an adapter beside its base; where there is no room, in the place of one that nobody uses now. */
  async #load(wanted: Personal): Promise<void> {
    while (!wanted.isLoaded) {
      try {
        await wanted.base.frontend.engine.runner.adapters!.add(wanted.adapter, wanted.path);
        wanted.isLoaded = true;
      } catch (error) {
        if (!FULL.has((error as { code?: string }).code ?? "")) throw error;
        const idle = [...this.#known.values()].find(
          ({ base, isLoaded, answers }) => base === wanted.base && isLoaded && answers === 0,
        );
        if (idle === undefined)
          throw new AppError(503, "models_busy", "too many people are asking models of their own: try again");
        await this.#unload(idle);
      }
    }
  }

  async #unload(known: Personal): Promise<void> {
    if (!known.isLoaded) return;
    known.isLoaded = false;
    await known.base.frontend.engine.runner.adapters!.remove(known.adapter);
  }
}

const FULL = new Set(["too_many_adapters", "out_of_memory"]);
