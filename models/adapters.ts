import { KilnError } from "../core/errors.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { noGrad } from "../core/tape.ts";
import type { Tensor } from "../core/tensor.ts";
import { assignInto, copy, transpose } from "../kernels/index.ts";
import { type Adaptable, Conv1D, Embedding, Linear, LoraLayer, type Parameter } from "../nn/index.ts";
import { type AdapterConfig, parseAdapterConfig } from "./adapter_config.ts";
import {
  type AdapterPlan,
  type AnyModel,
  defaultsFor,
  planOf,
  tensorNames,
  wholeName,
} from "./adapter_plan.ts";
import { quoted } from "./formats/safetensors_header.ts";

const parametersOf = ({ a, b, magnitude }: LoraLayer): Parameter[] =>
  magnitude ? [a, b, magnitude] : [a, b];

/** What one directory of PEFT holds: changes of matrices, and parameters that are trained whole. */
export class Adapter {
  readonly config: AdapterConfig;
  readonly #layers: readonly { name: string; layer: Adaptable; change: LoraLayer }[];
  /** Parameters trained whole, by name: the model's tensor, and those of its two sets of values that it does not hold now. */
  readonly #whole: ReadonlyMap<string, { parameter: Parameter; hidden: Tensor }>;
  /** While it is merged: the layers' own matrices. */
  #originals: { weight: Parameter; values: Float32Array }[] | null = null;

  /** Use `addAdapter` or `loadAdapter`. */
  constructor(model: AnyModel, config: AdapterConfig, plan: AdapterPlan) {
    this.config = config;
    const { lora_dropout: dropout, use_dora: dora, use_rslora: rslora } = config;
    const dtype = model.computeDtype;
    this.#layers = [...plan.targets].map(([name, { layer, rank, alpha }]) => {
      const change = new LoraLayer(layer.features, { rank, alpha, rslora, dora, dropout });
      for (const parameter of parametersOf(change)) parameter.computeIn(dtype);
      return { name, layer, change };
    });
    const hide = (parameter: Parameter) => persist(noGrad(() => copy(parameter)));
    this.#whole = new Map(
      [...plan.whole].map(([name, parameter]) => [name, { parameter, hidden: hide(parameter) }]),
    );
  }

  /** The layers that it changes. */
  get targets(): Adaptable[] {
    return this.#layers.map(({ layer }) => layer);
  }

  /** What training changes while the adapter is active, by PEFT's names. */
  parameters(): Map<string, Parameter> {
    const whole = [...this.#whole].map(([name, { parameter }]) => [wholeName(name), parameter] as const);
    return new Map([...this.#changes(), ...whole]);
  }

  #changes(): [name: string, Parameter][] {
    return this.#layers.flatMap(({ name, layer, change }) => {
      const names = tensorNames(name, layer);
      return parametersOf(change).map((p, i): [string, Parameter] => [names[i], p]);
    });
  }

  /** What a directory holds. Of parameters trained whole the adapter's own values, also while it is not active. */
  tensors(active: boolean): Map<string, Tensor> {
    const whole = [...this.#whole].map(([name, { parameter, hidden }]) => {
      return [wholeName(name), active ? parameter : hidden] as const;
    });
    return new Map<string, Tensor>([...this.#changes(), ...whole]);
  }

  init(seed: number): void {
    for (const { name, layer, change } of this.#layers)
      change.init(layer, layer instanceof Embedding ? "embedding" : "product", seed, name);
  }

  /** Puts the adapter into its layers or takes it out. */
  attach(on: boolean): void {
    for (const { layer, change } of this.#layers) layer.adapter = on ? change : null;
    for (const { parameter, hidden } of this.#whole.values()) {
      scope(() => {
        const before = noGrad(() => copy(parameter));
        assignInto(parameter, hidden);
        assignInto(hidden, before);
      });
      parameter.refresh();
    }
  }

  /** Adds the changes to the layers' matrices, of which it keeps copies in host memory; the layers lose the adapter. */
  async merge(): Promise<void> {
    const weights = this.#layers.map(({ name, layer }) => floatWeight(name, layer));
    const originals = [];
    for (const weight of weights) originals.push({ weight, values: Float32Array.from(await weight.data()) });
    this.#layers.forEach(({ layer, change }, i) => {
      const weight = weights[i];
      const turned = (t: Tensor) => (layer instanceof Linear ? t : transpose(t, 0, 1));
      scope(() => noGrad(() => assignInto(weight, turned(change.merged(turned(weight))))));
      weight.refresh();
      layer.adapter = null;
    });
    this.#originals = originals;
  }

  unmerge(): void {
    for (const { weight, values } of this.#originals ?? []) weight.write(values);
    for (const { layer, change } of this.#layers) layer.adapter = change;
    this.#originals = null;
  }

  dispose(): void {
    for (const { change } of this.#layers)
      for (const parameter of parametersOf(change)) dispose([parameter.half, parameter]);
    dispose([...this.#whole.values()].map(({ hidden }) => hidden));
    this.#originals = null;
  }
}

function floatWeight(name: string, layer: Adaptable): Parameter {
  if (layer instanceof Linear || layer instanceof Conv1D || layer instanceof Embedding) return layer.weight;
  throw new KilnError(
    `${name} is quantized, and an adapter is merged into floating weights: dequantize the model first`,
  );
}

export interface AddAdapterOptions {
  name?: string;
  /** Of the first values, which depend on it and on the layers' names. */
  seed?: number;
}

/**
 * A fresh adapter of a model, which changes nothing yet; `useAdapter` makes it the active one. Settings are those of PEFT's
 * adapter_config.json. Throws a KilnError that names the nearest module for one that the model does not have.
 */
export function addAdapter(
  model: AnyModel,
  settings: Partial<AdapterConfig>,
  options: AddAdapterOptions = {},
): Adapter {
  const config = defaultsFor(model, parseAdapterConfig(settings));
  return createAdapter(model, options.name, config, planOf(model, config, true), (adapter) =>
    adapter.init(options.seed ?? 0),
  );
}

/** An adapter with the values that `fill` gives it; what `planOf` found is the caller's to check. */
export function createAdapter(
  model: AnyModel,
  name = "default",
  config: AdapterConfig,
  plan: AdapterPlan,
  fill: (made: Adapter) => void,
): Adapter {
  if (model.adapters.has(name))
    throw new KilnError(`the model has an adapter ${quoted(name)} already; remove it first`);
  const active = model.adapter;
  // Parameters that an active adapter trains whole must hold the base's values when they are copied.
  activate(model, null);
  const adapter = new Adapter(model, config, plan);
  try {
    fill(adapter);
    model.adapters.set(name, adapter);
  } catch (error) {
    adapter.dispose();
    throw error;
  } finally {
    activate(model, active);
  }
  return adapter;
}

function activate(model: AnyModel, adapter: Adapter | null): void {
  if (model.adapter === adapter) return;
  model.adapter?.attach(false);
  adapter?.attach(true);
  setActive(model, adapter);
}

/** What an active adapter does not train has no derivatives. */
function setActive(model: AnyModel, adapter: Adapter | null): void {
  model.adapter = adapter;
  const trained = adapter && new Set(adapter.parameters().values());
  for (const parameter of model.parameters()) parameter.freeze(trained !== null && !trained.has(parameter));
}

/** Throws a KilnError that names those there are. */
export function adapterOf(model: AnyModel, name: string): Adapter {
  const adapter = model.adapters.get(name);
  if (adapter) return adapter;
  const names = [...model.adapters.keys()];
  throw new KilnError(`the model has no adapter ${quoted(name)}; it has ${names.join(", ") || "none"}`);
}

/**
 * Makes one of the model's adapters the active one, or none (null). While one is active it alone is trained; without one, the
 * model itself is. Compiled steps follow.
 */
export function useAdapter(model: AnyModel, name: string | null): void {
  const adapter = name === null ? null : adapterOf(model, name);
  if (model.merged)
    throw new KilnError("an adapter is merged into the model; unmerge it before another is used");
  activate(model, adapter);
}

/** Frees an adapter. One that is merged stays in the matrices for good. */
export function removeAdapter(model: AnyModel, name: string): void {
  const adapter = adapterOf(model, name);
  if (model.adapter === adapter) activate(model, null);
  if (model.merged === adapter) model.merged = null;
  model.adapters.delete(name);
  adapter.dispose();
}

/**
 * Adds the active adapter to the model's matrices, which are then the model's own: it runs at its usual speed and can be
 * saved. Returns the largest difference between the `logits` before and after, which rounding causes, and the largest logit.
 * Throws a KilnError where a matrix is quantized or shared with the head; `unmergeAdapter` gives the matrices their bits back.
 */
export async function mergeAdapter(
  model: AnyModel,
  logits: () => Tensor,
): Promise<{ drift: number; largest: number }> {
  const adapter = model.adapter;
  if (!adapter) throw new KilnError("no adapter is active; use one before merging it");
  assertUntied(model);
  const read = async () => {
    const made = scope(() => noGrad(logits));
    const values = await made.data();
    dispose(made);
    return values;
  };
  const before = await read();
  await adapter.merge();
  model.merged = adapter;
  setActive(model, null);
  const after = await read();
  let [drift, largest] = [0, 0];
  before.forEach((value, i) => {
    drift = Math.max(drift, Math.abs(value - after[i]));
    largest = Math.max(largest, Math.abs(value));
  });
  return { drift, largest };
}

/** An adapter of an embedding changes no head that shares its matrix; merged, it would. */
function assertUntied(model: AnyModel): void {
  const parameters = model.namedParameters();
  const shared = Object.entries(model.checkpointNames.tied).filter(([head]) => !parameters.has(head));
  for (const [name, module] of model.namedModules()) {
    const tied = shared.find(([, twin]) => twin === `${name}.weight`);
    if (tied && module instanceof Embedding && module.adapter)
      throw new KilnError(`the adapter changes ${name}, which ${tied[0]} shares; it cannot be merged`);
  }
}

/** Takes the merged adapter out again, bit for bit, and makes it the active one. */
export function unmergeAdapter(model: AnyModel): void {
  const adapter = model.merged;
  if (!adapter) throw new KilnError("no adapter is merged into the model");
  adapter.unmerge();
  model.merged = null;
  setActive(model, adapter);
}
