import { setImmediate as nextTurn } from "node:timers/promises";
import { AppError } from "../app_error.ts";
import {
  type Answerer,
  type AnswerRequest,
  type AnswerSource,
  LOCAL_ANSWERER,
  type ModelCall,
  type Noticed,
  type RunningAnswer,
  type TextListener,
  type Turn,
} from "../chat/answers.ts";
import { chooseBest } from "../ensemble/choose.ts";
import { Gate, ruleFor } from "../ensemble/router.ts";
import type { ModelInfo, ProviderList, Usage } from "../protocol.ts";
import { type Clock, systemClock } from "./clock.ts";
import { baseOf, type ProvidersConfig } from "./config.ts";
import type { LocalTools } from "./local_tools.ts";
import { costOf, priceAt } from "./prices.ts";
import type { ProviderCall } from "./provider.ts";
import type { Upstream } from "./upstream.ts";
import { UpstreamError } from "./upstream_error.ts";

type UpstreamModel = ProvidersConfig["providers"][string]["models"][string];
type Ensemble = ProvidersConfig["ensembles"][string];
type Route = ProvidersConfig["routes"][string];

/** What one answer is made with. */
interface Making {
  readonly request: AnswerRequest;
  readonly signal: AbortSignal;
  readonly ledger: Ledger;
  readonly text: TextListener;
  notice(notice: Noticed): void;
}

/** An answer at its end, and who gave it. */
interface Made extends Pick<Answerer, "provider" | "modelVersion" | "meanLogprob"> {
  readonly model: string;
  readonly finish: "stop" | "length";
}

/** A call of a model, while it runs and after. */
interface OpenCall {
  readonly model: string;
  readonly provider: string;
  readonly version: string | null;
  /** null: nothing was used. */
  usage(): Usage | null;
  cost(usage: Usage): number | null;
}

/** What an answer has used, of whom. */
class Ledger {
  readonly #open: OpenCall[] = [];
  made: Made | null = null;

  open(call: OpenCall): void {
    this.#open.push(call);
  }

  calls(): ModelCall[] {
    return this.#open.flatMap(({ model, usage, cost }) => {
      const used = usage();
      return used === null ? [] : [{ model, usage: used, costMicrousd: cost(used) }];
    });
  }

  usage(): Usage {
    const none = { prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0, estimated: false };
    return this.calls().reduce<Usage>(
      (sum, { usage }) => ({
        prompt_tokens: sum.prompt_tokens + usage.prompt_tokens,
        completion_tokens: sum.completion_tokens + usage.completion_tokens,
        cached_tokens: sum.cached_tokens + usage.cached_tokens,
        estimated: sum.estimated || usage.estimated,
      }),
      none,
    );
  }

  by(asked: string): Answerer {
    const calls = this.calls();
    const costs = calls.map(({ costMicrousd }) => costMicrousd);
    const last = this.#open.at(-1);
    const { model, provider, modelVersion, meanLogprob } = this.made ?? {
      ...{ model: last?.model ?? asked, provider: last?.provider ?? "local" },
      ...{ modelVersion: last?.version ?? null, meanLogprob: null },
    };
    const costMicrousd = costs.includes(null) ? null : costs.reduce<number>((sum, cost) => sum + cost!, 0);
    return { model, provider, modelVersion, meanLogprob, costMicrousd, calls };
  }
}

export interface AnsweringOptions {
  readonly local: AnswerSource;
  readonly tools: LocalTools;
  readonly config: ProvidersConfig;
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly clock?: Clock;
}

/**
 * Answers of this server's models, of providers, of ensembles of both, and of routes, which choose among them. Each model of a
 * provider has those that answer where it cannot; each answer tells who gave it, and what all that were asked have used.
 */
export class Answering implements AnswerSource {
  readonly #local: AnswerSource;
  readonly #tools: LocalTools;
  readonly #config: ProvidersConfig;
  readonly #upstreams: ReadonlyMap<string, Upstream>;
  readonly #clock: Clock;
  readonly #models = new Map<string, UpstreamModel & { readonly upstream: Upstream }>();

  /** @throws AppError for a name that stands for nothing, or for two things. */
  constructor({ local, tools, config, upstreams, clock = systemClock }: AnsweringOptions) {
    this.#local = local;
    this.#tools = tools;
    this.#config = config;
    this.#upstreams = upstreams;
    this.#clock = clock;
    for (const [provider, { models }] of Object.entries(config.providers))
      for (const [name, model] of Object.entries(models))
        this.#models.set(name, { ...model, upstream: upstreams.get(provider)! });
    this.#check();
  }

  #check(): void {
    const local = this.#local.models();
    const { ensembles, routes } = this.#config;
    const own = [...this.#models.keys(), ...Object.keys(ensembles), ...Object.keys(routes)];
    const twice = own.find((name) => local.includes(name));
    if (twice !== undefined)
      throw wrong(`two models would be called ${twice}: rename the one in the file of --providers`);
    const models = [...local, ...this.#models.keys()];
    const named = [
      ...[...this.#models].flatMap(([name, { fallback }]) =>
        fallback.map((one) => ({ one, of: name, in: models })),
      ),
      ...Object.entries(ensembles).flatMap(([of, { members }]) =>
        members.map((one) => ({ one, of, in: models })),
      ),
      ...Object.entries(ensembles).flatMap(([of, { scorer }]) =>
        scorer ? [{ one: scorer, of, in: local }] : [],
      ),
      ...Object.entries(routes).flatMap(([of, { chain, rules }]) =>
        [...chain, ...rules.map(({ to }) => to)].map((one) => ({
          one,
          of,
          in: [...models, ...Object.keys(ensembles)],
        })),
      ),
    ];
    const unknown = named.find(({ one, in: known }) => !known.includes(one));
    if (unknown !== undefined)
      throw wrong(
        `${unknown.of} names the model ${unknown.one}, which is not there; there are ${unknown.in.join(", ") || "none"}`,
      );
  }

  models(): string[] {
    const { ensembles, routes } = this.#config;
    return [
      ...this.#local.models(),
      ...this.#models.keys(),
      ...Object.keys(ensembles),
      ...Object.keys(routes),
    ];
  }

  versionOf(name: string): string | null {
    return this.#local.versionOf(name) ?? (this.models().includes(name) ? name : null);
  }

  /** Those that a name may ask; of a model itself, none. */
  #members(name: string): readonly string[] {
    const { ensembles, routes } = this.#config;
    const route = routes[name];
    return ensembles[name]?.members ?? (route ? [...route.chain, ...route.rules.map(({ to }) => to)] : []);
  }

  parameters(name: string): number | null {
    return this.#local.parameters?.(name) ?? null;
  }

  contextLength(name: string): number {
    const members = this.#members(name);
    if (members.length > 0) return Math.min(...members.map((member) => this.contextLength(member)));
    return this.#models.get(name)?.context_length ?? this.#local.contextLength(name);
  }

  async count(name: string, turns: readonly Turn[]): Promise<number> {
    const members = this.#members(name);
    if (members.length > 0)
      return Math.max(...(await Promise.all(members.map((member) => this.count(member, turns)))));
    if (!this.#models.has(name)) return this.#local.count(name, turns);
    const counts = await Promise.all(turns.map(({ content }) => this.#tools.measure(content)));
    return counts.reduce((sum, count) => sum + count + TURN_TOKENS, 0);
  }

  async start(
    request: AnswerRequest,
    onText: TextListener,
    onNotice: (notice: Noticed) => void = () => {},
  ): Promise<RunningAnswer> {
    const { model } = request;
    if (!this.#models.has(model) && this.#members(model).length === 0)
      return this.#local.start(request, onText);
    const stopping = new AbortController();
    const ledger = new Ledger();
    const making = { request, signal: stopping.signal, ledger, text: onText, notice: onNotice };
    const done = nextTurn()
      .then(() => this.#make(model, making))
      .then((made) => {
        ledger.made = made;
        return made.finish;
      });
    done.catch(() => {});
    return {
      done,
      usage: () => ledger.usage(),
      by: () => ledger.by(model),
      stop: () => stopping.abort(new AppError(499, "client_closed", "the answer was stopped")),
    };
  }

  #make(name: string, making: Making): Promise<Made> {
    const { ensembles, routes } = this.#config;
    if (ensembles[name]) return this.#best(name, ensembles[name], making);
    if (routes[name]) return this.#route(name, routes[name], making);
    return this.#chain(name, making);
  }

  /** A model, or those that answer where it cannot. Once it has said something, it is the one. */
  async #chain(first: string, making: Making): Promise<Made> {
    const names = [first, ...(this.#models.get(first)?.fallback ?? [])];
    for (const [i, name] of names.entries()) {
      let said = false;
      try {
        return await this.#ask(name, {
          ...making,
          text: (text, logprobs) => {
            said = true;
            making.text(text, logprobs);
          },
        });
      } catch (error) {
        making.signal.throwIfAborted();
        const to = names[i + 1];
        if (to === undefined || said) throw error;
        making.notice({ kind: "fallback", from: name, to, reason: (error as Error).message });
      }
    }
    throw new Error("a chain has a first model");
  }

  #ask(name: string, making: Making): Promise<Made> {
    const model = this.#models.get(name);
    return model ? this.#askUpstream(name, model, making) : this.#askLocal(name, making);
  }

  async #askLocal(name: string, { request, signal, ledger, text }: Making): Promise<Made> {
    const running = await this.#local.start({ ...request, model: name }, text);
    const version = running.by?.().modelVersion ?? null;
    ledger.open({ model: name, provider: "local", version, usage: () => running.usage(), cost: () => 0 });
    const stop = () => running.stop();
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    try {
      const finish = await running.done;
      return { ...(running.by?.() ?? LOCAL_ANSWERER), model: name, finish };
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  async #askUpstream(
    name: string,
    model: UpstreamModel & { upstream: Upstream },
    making: Making,
  ): Promise<Made> {
    const { upstream, prices, task } = model;
    const { request, signal, ledger } = making;
    const prompt_tokens = await this.count(name, request.turns);
    const perChar = prompt_tokens / request.turns.reduce((sum, { content }) => sum + content.length + 1, 0);
    let [text, usage]: [string, Usage | null] = ["", null];
    const estimate = (completion_tokens: number): Usage => ({
      ...{ prompt_tokens, completion_tokens, cached_tokens: 0, estimated: true },
    });
    ledger.open({
      ...{ model: name, provider: upstream.name, version: null },
      // What was never begun costs nothing.
      usage: () => usage ?? (text === "" ? null : estimate(Math.ceil(text.length * perChar))),
      cost: (used) => costOf(priceAt(prices, this.#clock.now()), used),
    });
    const { turns, params, continues, scores = false } = request;
    const call: ProviderCall = { model: model.model ?? name, task, turns, params, continues, scores };
    const tokens = prompt_tokens + (params.max_tokens ?? 0);
    const onRetry = (attempt: number, wait_ms: number) =>
      making.notice({ kind: "retry", provider: upstream.name, attempt, wait_ms });
    const logprobs: number[] = [];
    let finish: "stop" | "length" = "stop";
    try {
      for await (const piece of upstream.ask(call, { signal, tokens, onRetry })) {
        if (piece.text) text += piece.text;
        if (piece.logprobs) logprobs.push(...piece.logprobs);
        if (piece.text || piece.logprobs?.length) making.text(piece.text ?? "", piece.logprobs);
        usage = piece.usage ?? usage;
        finish = piece.finish ?? finish;
      }
    } finally {
      if (usage === null && text !== "" && !signal.aborted) usage = estimate(await this.#tools.measure(text));
    }
    return {
      model: name,
      provider: upstream.name,
      modelVersion: null,
      meanLogprob: meanOf(logprobs),
      finish,
    };
  }

  /** Several answers, of which the best is given. One that fails is left out, unless all do. */
  async #best(
    name: string,
    { members, n = Math.max(3, members.length), choose, scorer }: Ensemble,
    making: Making,
  ): Promise<Made> {
    const { request } = making;
    const { seed } = request.params;
    const asked = await Promise.allSettled(
      Array.from({ length: n }, async (_, i) => {
        let text = "";
        const params = seed === undefined ? request.params : { ...request.params, seed: seed + i };
        const made = await this.#chain(members[i % members.length]!, {
          ...making,
          request: { ...request, params, scores: choose !== "mbr" },
          text: (piece) => {
            text += piece;
          },
        });
        return { ...made, text };
      }),
    );
    making.signal.throwIfAborted();
    const answers = asked.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    if (answers.length === 0) throw (asked[0] as PromiseRejectedResult).reason;
    const judge = scorer ?? members.find((member) => !this.#models.has(member));
    const scored =
      choose === "rerank" && judge !== undefined
        ? await Promise.all(
            answers.map(async (answer) => ({
              text: answer.text,
              meanLogprob: await this.#tools.score(judge, request.turns, answer.text, request.client),
            })),
          )
        : answers;
    const best = answers[chooseBest(scored, choose)]!;
    making.notice({ kind: "voted", models: answers.map(({ model }) => model), method: choose });
    making.text(best.text);
    return { ...best, model: name };
  }

  /** By the first rule that holds, else along the chain until one is sure enough. */
  async #route(name: string, { chain, tau, rules }: Route, making: Making): Promise<Made> {
    const { turns, question } = making.request;
    const text = question ?? turns.findLast(({ role }) => role === "user")?.content ?? "";
    const rule = await ruleFor(rules, { text, documents: question !== undefined }, this.#tools);
    if (rule !== null) {
      making.notice({ kind: "routed", from: name, to: rule.to, reason: rule.reason });
      return this.#make(rule.to, making);
    }
    for (const [i, member] of chain.entries()) {
      const to = chain[i + 1];
      if (to === undefined) return this.#make(member, making);
      const gate = new Gate(tau, making.signal, (text, logprobs) => making.text(text, logprobs));
      try {
        const made = await this.#make(member, {
          ...making,
          request: { ...making.request, scores: true },
          signal: gate.signal,
          text: (text, logprobs) => gate.hear(text, logprobs),
        });
        if (gate.end()) return made;
      } catch (error) {
        making.signal.throwIfAborted();
        if (!gate.refused) throw error;
      }
      making.notice({
        kind: "routed",
        from: member,
        to,
        reason: `${gate.confidence!.toFixed(2)} sure, ${tau} is wanted`,
      });
    }
    throw new Error("a route has a last model");
  }

  /** Whom it adds to the models of this server. */
  listed(): ModelInfo[] {
    const infoOf = (name: string, provider: string): ModelInfo => ({
      ...{ name, kind: "base", state: "ready", progress: null, error: null, log: null, chat: true, provider },
      ...{
        parameters: null,
        context_length: this.contextLength(name),
        tokens_per_second: null,
        version: null,
      },
      ...{ aliases: {}, examples: [] },
    });
    const { ensembles, routes } = this.#config;
    return [
      ...[...this.#models].map(([name, { upstream }]) => infoOf(name, upstream.name)),
      ...Object.keys(ensembles).map((name) => infoOf(name, "ensemble")),
      ...Object.keys(routes).map((name) => infoOf(name, "route")),
    ];
  }

  /** The providers, for those who may know their addresses. */
  providers(isAdmin: boolean): ProviderList["providers"] {
    return [...this.#upstreams.values()].map(({ name, settings, key, circuit }) => ({
      ...{ name, dialect: settings.dialect, base_url: isAdmin ? baseOf(settings).href : null, key, circuit },
      models: Object.keys(settings.models),
    }));
  }

  close(): void {
    for (const upstream of this.#upstreams.values()) upstream.close();
  }
}

/** That a chat's form adds to a turn, roughly. */
const TURN_TOKENS = 4;

const wrong = (message: string) => new UpstreamError({ code: "upstream_refused", message });

const meanOf = (values: readonly number[]): number | null =>
  values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
