import { KilnError } from "../../../core/errors.ts";
import { invalid, RequestError } from "../../engine/errors.ts";
import { LIMITS } from "../../limits.ts";
import type { Models } from "../../models.ts";
import {
  EncoderFrontend,
  type EncoderJob,
  type EncoderRequest,
  type EncoderTask,
} from "../../text/encoder_frontend.ts";
import type { ProvidersConfig } from "../providers/config.ts";
import { atTemperature, hardVote, type Probabilities, softVote, weightsOf } from "./vote.ts";

export type ClassifiersSettings = ProvidersConfig["classifiers"][string];
type Classifier = EncoderFrontend<Extract<EncoderTask, { name: "classify" }>>;

/** The classifiers with these names. @throws KilnError for what is none, and where their labels are not the same. */
export function classifiersNamed(models: Models, name: string, members: readonly string[]): Classifier[] {
  const found = members.map((member) => {
    const model = models.get(member);
    if (model?.kind === "encoder" && model.frontend.task.name === "classify")
      return model.frontend as Classifier;
    throw new KilnError(
      `classifiers.${name} names ${member}, which is no classifier of this server: serve it as ${member}=PATH`,
    );
  });
  const labels = (one: Classifier) => one.task.labels.toSorted().join(", ");
  const other = found.findIndex((one) => labels(one) !== labels(found[0]!));
  if (other > 0)
    throw new KilnError(
      `classifiers.${name}: ${members[other]} tells ${labels(found[other]!)}, but ${members[0]} tells ${labels(found[0]!)}: members need the same labels`,
    );
  return found;
}

/** What a member holds for likely, in the order of `labels`. */
export function probabilitiesOf(
  labels: readonly string[],
  { task }: Classifier,
  logits: Float32Array,
): number[] {
  const scores = task.scores(logits);
  return labels.map((label) => scores[task.labels.indexOf(label)]!);
}

/** One verdict from those of the members, for a vote. */
export function combined(
  probabilities: readonly Probabilities[],
  { vote, fitted }: Pick<ClassifiersSettings, "vote" | "fitted">,
): number[] {
  const scaled = probabilities.map((one, i) =>
    fitted?.[i] ? atTemperature(one, fitted[i].temperature) : [...one],
  );
  const weights = fitted ? weightsOf(fitted.map(({ nll }) => nll)) : scaled.map(() => 1 / scaled.length);
  return vote === "soft" ? softVote(scaled, weights) : hardVote(scaled, weights);
}

/** Several classifiers of a server that answer as one. */
export class CombinedClassifiers extends EncoderFrontend {
  readonly #models: Models;
  readonly #name: string;
  readonly #settings: ClassifiersSettings;
  readonly #labels: readonly string[];

  /** @throws KilnError as `classifiersNamed`. */
  constructor(models: Models, name: string, settings: ClassifiersSettings) {
    const [first] = classifiersNamed(models, name, settings.members);
    super(first!.engine, first!.tokenizer, { ...first!.task, scores: (shares) => [...shares] }, LIMITS);
    this.#models = models;
    this.#name = name;
    this.#settings = settings;
    this.#labels = first!.task.labels;
  }

  /** The members as they are now: a registry's alias may have moved. */
  #members(): Classifier[] {
    try {
      return classifiersNamed(this.#models, this.#name, this.#settings.members);
    } catch (cause) {
      throw new RequestError("engine_unavailable", (cause as Error).message, { cause });
    }
  }

  override async start(request: EncoderRequest): Promise<EncoderJob> {
    const { inputs, param = "input" } = request;
    if (inputs.some((input) => typeof input !== "string" && typeof input[0] !== "string"))
      throw invalid(param, "token ids are for one model; this is several: give texts");
    const members = this.#members();
    const running: EncoderJob[] = [];
    const cancel = () => running.forEach((job) => void job.cancel());
    const start = async (member: Classifier, texts: EncoderRequest["inputs"]) => {
      const job = await member.start({ ...request, inputs: texts });
      job.done.catch(() => {});
      running.push(job);
      return job;
    };
    try {
      if (this.#settings.vote === "chain") {
        const first = await start(members[0]!, inputs);
        return { ...first, cancel, done: this.#chain(members, inputs, first, start) };
      }
      const jobs: EncoderJob[] = [];
      for (const member of members) jobs.push(await start(member, inputs));
      const done = Promise.all(jobs.map((job) => job.done)).then((all) =>
        inputs.map((_, text) => {
          const each = members.map((member, i) => probabilitiesOf(this.#labels, member, all[i]![text]!));
          return Float32Array.from(combined(each, this.#settings));
        }),
      );
      done.catch(() => {});
      return {
        ...jobs[0]!,
        promptTokens: jobs.reduce((sum, job) => sum + job.promptTokens, 0),
        cancel,
        done,
      };
    } catch (error) {
      cancel();
      throw error;
    }
  }

  async #chain(
    members: readonly Classifier[],
    inputs: EncoderRequest["inputs"],
    first: EncoderJob,
    start: (member: Classifier, texts: EncoderRequest["inputs"]) => Promise<EncoderJob>,
  ): Promise<Float32Array[]> {
    const { tau, fitted } = this.#settings;
    const verdicts: Float32Array[] = [];
    let open = inputs.map((_, i) => i);
    for (const [i, member] of members.entries()) {
      const job =
        i === 0
          ? first
          : await start(
              member,
              open.map((text) => inputs[text]!),
            );
      const logits = await job.done;
      for (const [place, text] of open.entries()) {
        const own = probabilitiesOf(this.#labels, member, logits[place]!);
        verdicts[text] = Float32Array.from(fitted ? atTemperature(own, fitted[i]!.temperature) : own);
      }
      open = open.filter((text) => Math.max(...verdicts[text]!) < tau);
      if (open.length === 0) break;
    }
    return verdicts;
  }
}
