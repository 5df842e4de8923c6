import type { KilnError } from "../../../core/errors.ts";
import { type RegisteredVersion, Registry } from "../../../models/registry/registry.ts";
import { newId, type Store } from "../../store/index.ts";
import { AppError, notFound } from "../app_error.ts";
import type { AnswerSource } from "../chat/answers.ts";
import type { Experiment, NewExperiment } from "../protocol.ts";
import { type Arm, type Assigned, assigned, type Running } from "./assign.ts";
import { type ExperimentRow, reportOf, sentence } from "./report.ts";

export interface ExperimentsOptions {
  /** Who answers in this process; absent: nobody does, as in a command. */
  readonly source?: AnswerSource;
  readonly registry?: Registry;
  /** Has these versions answer beside those that are served anyway, and no others. Rejects where one cannot. */
  readonly keepArms?: (versions: readonly string[]) => Promise<void>;
}

/** How old the list of running experiments may be: another process may start and end them. */
const FRESH_MS = 500;

/**
 * Experiments between two versions of a model. Who asks for the control's name is answered by one arm, always the same. Where
 * both arms do not answer in this process, or the name stands for another version meanwhile, nobody takes part.
 */
export class Experiments {
  readonly store: Store;
  readonly #source: AnswerSource | null;
  readonly #registry: Registry;
  readonly #keepArms: (versions: readonly string[]) => Promise<void>;
  #running: readonly Running[] | null = null;
  #readAt = 0;
  #reading: Promise<void> = Promise.resolve();

  constructor(store: Store, { source, registry = new Registry(), keepArms }: ExperimentsOptions = {}) {
    this.store = store;
    this.#source = source ?? null;
    this.#registry = registry;
    this.#keepArms = keepArms ?? (async () => {});
  }

  /** The arm that answers who asks for `model`; null where that is no experiment's control. */
  async armFor(model: string, userId: string, conversationId: string): Promise<Assigned | null> {
    const version = this.#source?.versionOf(model);
    // Only what the registry knows takes part in experiments.
    if (version == null || !/@\d+$/.test(version)) return null;
    if (this.#running === null) await this.#refresh();
    else if (Date.now() - this.#readAt > FRESH_MS) void this.#refresh().catch(() => {});
    const experiment = this.#running?.find(({ arms: [control] }) =>
      // Who asks for a version by its number gets that one.
      control!.name === version && /@\d+$/.test(model) ? control!.asked === model : control!.name === version,
    );
    if (!experiment?.arms.every(({ name }) => this.#source!.versionOf(name) === name)) return null;
    return assigned(experiment, userId, conversationId);
  }

  /** Reads which experiments run, and has their arms answer here. */
  #refresh(): Promise<void> {
    this.#readAt = Date.now();
    this.#reading = this.#reading
      .catch(() => {})
      .then(async () => {
        const rows = await this.#rows("WHERE state = 'running'");
        this.#running = rows.map(({ id, name, unit, arms }) => ({ id, name, unit, arms: JSON.parse(arms) }));
        void this.#keepArms(this.#wanted()).catch(() => {}); // who keeps them says why one cannot answer
      });
    return this.#reading;
  }

  /** Versions that answer for the experiments whose control does in this process. */
  #wanted(): string[] {
    return (this.#running ?? []).flatMap(({ arms: [control, ...others] }) =>
      this.#answersAs(control!.asked, control!.name) ? others.map(({ name }) => name) : [],
    );
  }

  /** Whether a version answers in this process to who asks so; a name alone is its alias prod. */
  #answersAs(asked: string, version: string): boolean {
    const [name, alias = "prod"] = asked.split("@");
    const names = alias === "prod" ? [name!, `${name}@prod`] : [asked];
    return names.some((one) => this.#source?.versionOf(one) === version);
  }

  #rows(where: string, values: readonly string[] = []): Promise<ExperimentRow[]> {
    return this.store.all<ExperimentRow>(
      `SELECT id, name, arms, unit, state, started_at, stopped_at, alpha, tau2, decision FROM experiment ${where} ORDER BY id DESC`,
      values,
    );
  }

  /** Newest first. */
  async list(): Promise<Experiment[]> {
    const found: Experiment[] = [];
    for (const row of await this.#rows("")) found.push(await reportOf(this.store, row));
    return found;
  }

  /** By id or name. @throws AppError 404. */
  async get(idOrName: string): Promise<Experiment> {
    return reportOf(this.store, await this.#row(idOrName));
  }

  async #row(idOrName: string): Promise<ExperimentRow> {
    const [row] = await this.#rows("WHERE id = ? OR name = ?", [idOrName, idOrName]);
    if (row === undefined) throw notFound("experiment");
    return row;
  }

  /**
   * Starts an experiment. @throws AppError 404 for a version that does not exist, 409 for a name that is taken and a model that is
   * in another experiment, 422 for arms that cannot be compared.
   */
  async start(asked: NewExperiment): Promise<Experiment> {
    const { name, split = 0.5, unit = "user", alpha = 0.05 } = asked;
    const [control, treatment] = [await this.#find(asked.control), await this.#find(asked.treatment)];
    refuseUnlike(control, treatment);
    if (this.#source !== null && !this.#answersAs(asked.control, nameOf(control)))
      throw new AppError(
        422,
        "not_served",
        `control: this server does not answer as ${asked.control}: start it with kiln serve ${asked.control}`,
        "control",
      );
    const arms: Arm[] = [
      { name: nameOf(control), asked: asked.control, weight: 1 - split },
      { name: nameOf(treatment), asked: asked.treatment, weight: split },
    ];
    await this.#refuseTwo(control.name);
    await this.#keepArms([...this.#wanted(), nameOf(treatment)]).catch((error) => {
      throw new AppError(409, "arm_not_loaded", `${nameOf(treatment)} cannot answer here: ${error.message}`);
    });
    const id = newId();
    for (const arm of arms) await this.#registry.use(arm.name, userOf(name), true);
    try {
      await this.store.run(
        "INSERT INTO experiment (id, name, arms, unit, metric, state, started_at, alpha, tau2) VALUES (?, ?, ?, ?, 'thumbs_up_rate', 'running', ?, ?, 0.01)",
        [id, name, JSON.stringify(arms), unit, Date.now(), alpha],
      );
    } catch (error) {
      await this.#release({ name, arms: JSON.stringify(arms) });
      await this.#refresh();
      if ((error as { code?: string }).code !== "store_unique") throw error;
      throw new AppError(
        409,
        "name_taken",
        `there is an experiment ${name} already: give another name`,
        "name",
      );
    }
    await this.#refresh();
    return this.get(id);
  }

  async #refuseTwo(model: string): Promise<void> {
    for (const { name, arms } of await this.#rows("WHERE state = 'running'"))
      if ((JSON.parse(arms) as Arm[]).some((arm) => arm.name.startsWith(`${model}@`)))
        throw new AppError(
          409,
          "experiment_running",
          `${model} is in the experiment ${name} already: stop that first`,
          "control",
        );
  }

  async #find(reference: string): Promise<RegisteredVersion> {
    try {
      return await this.#registry.find(reference);
    } catch (error) {
      const { code, message } = error as KilnError;
      if (code === "version_missing") throw new AppError(404, code, message);
      if (code === "name_invalid") throw new AppError(422, code, message);
      throw error;
    }
  }

  /** Ends an experiment without a change. @throws AppError 404, 409 where it has ended. */
  async stop(idOrName: string): Promise<Experiment> {
    return this.#end(await this.#row(idOrName), "stopped", "Stopped");
  }

  /**
   * Ends an experiment in favour of an arm: the alias that people ask for stands for it from one moment to the next, in every
   * server that follows it. @throws AppError 404; 409 where it has ended, or people were not split as the weights say.
   */
  async promote(idOrName: string, armName: string): Promise<Experiment> {
    const row = await this.#row(idOrName);
    const arms = JSON.parse(row.arms) as Arm[];
    const arm = arms.find(({ name, asked }) => name === armName || asked === armName);
    if (arm === undefined)
      throw new AppError(
        422,
        "unknown_arm",
        `arm: ${armName} is none of ${arms.map(({ name }) => name).join(" and ")}`,
        "arm",
      );
    if (row.state !== "running") throw ended(row);
    const { result } = await reportOf(this.store, row);
    if (!result.sample_ratio.ok)
      throw new AppError(
        409,
        "sample_ratio_mismatch",
        `people were not split as the weights say (p = ${result.sample_ratio.p_value.toPrecision(2)}): nothing may be decided; stop it and look for the cause`,
      );
    const [model, version] = arm.name.split("@");
    const alias = /@([a-z][^@]*)$/i.exec(arms[0]!.asked)?.[1] ?? "prod";
    await this.#registry.alias(model!, alias, Number(version));
    return this.#end(row, "promoted", `${model}@${alias} is ${arm.name}`);
  }

  async #end(row: ExperimentRow, state: "stopped" | "promoted", what: string): Promise<Experiment> {
    const { result, alpha } = await reportOf(this.store, row);
    const changed = await this.store.run(
      "UPDATE experiment SET state = ?, stopped_at = ?, decision = ? WHERE id = ? AND state = 'running'",
      [state, Date.now(), `${what}: ${sentence(result, alpha)}`, row.id],
    );
    if (changed === 0) throw ended(row);
    await this.#release(row);
    await this.#refresh();
    return this.get(row.id);
  }

  async #release({ name, arms }: Pick<ExperimentRow, "name" | "arms">): Promise<void> {
    for (const arm of JSON.parse(arms) as Arm[]) await this.#registry.release(arm.name, userOf(name));
  }
}

const nameOf = ({ name, version }: RegisteredVersion) => `${name}@${version}`;
const userOf = (experiment: string) => `the experiment ${experiment}`;
const ended = ({ name }: ExperimentRow) =>
  new AppError(409, "experiment_ended", `the experiment ${name} has ended already`);

function refuseUnlike(control: RegisteredVersion, treatment: RegisteredVersion): void {
  const [a, b] = [nameOf(control), nameOf(treatment)];
  const refuse = (why: string) => new AppError(422, "invalid_arms", `treatment: ${why}`, "treatment");
  if (a === b) throw refuse(`both arms are ${a}: give another version`);
  if (control.name !== treatment.name)
    throw refuse(`${b} is no version of ${control.name}: add it as one with kiln model add ${control.name}`);
  const [task, other] = [control.signature.task, treatment.signature.task];
  if (task !== other) throw refuse(`${b} is for ${other}, and who asks expects ${task}`);
}
