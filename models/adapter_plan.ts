import { KilnError, nearestName } from "../core/errors.ts";
import type { Shape } from "../core/shape.ts";
import { Adaptable, Embedding, Linear, type Module, type Parameter } from "../nn/index.ts";
import { type AdapterConfig, isNamed, patternValue, withDefaults } from "./adapter_config.ts";
import { quoted } from "./formats/safetensors_header.ts";
import type { Model } from "./model.ts";

export type AnyModel = Model<never>;

/** What PEFT puts in front of every name. */
const prefix = "base_model.model.";

/** PEFT's name of a parameter that is trained whole. */
export const wholeName = (parameter: string) => prefix + parameter;

/** PEFT's names of A, B and the magnitudes of a layer. */
export function tensorNames(module: string, layer: Adaptable): [a: string, b: string, magnitude: string] {
  const [a, b] =
    layer instanceof Embedding
      ? ["lora_embedding_A", "lora_embedding_B"]
      : ["lora_A.weight", "lora_B.weight"];
  const name = (end: string) => `${prefix}${module}.${end}`;
  return [name(a), name(b), name("lora_magnitude_vector")];
}

/** The shape of every tensor of an adapter's directory, by name. */
export function tensorShapes({ targets, whole }: AdapterPlan, dora: boolean): Map<string, Shape> {
  const shapes = new Map<string, Shape>();
  for (const [module, { layer, rank }] of targets) {
    const [outputs, inputs] = layer.features;
    const [a, b, magnitude] = tensorNames(module, layer);
    shapes.set(a, [rank, inputs]).set(b, [outputs, rank]);
    if (dora) shapes.set(magnitude, [outputs]);
  }
  for (const [name, { shape }] of whole) shapes.set(wholeName(name), shape);
  return shapes;
}

/** An adapter's config with what follows from the model. */
export const defaultsFor = (model: AnyModel, config: AdapterConfig): AdapterConfig =>
  withDefaults(config, model.config.model_type, String([model.toHfConfig().architectures].flat()[0]));

const isHead = (layer: Module) =>
  layer instanceof Embedding || (layer instanceof Linear && layer.weight.perToken);

/** A layer that an adapter changes. */
interface Target {
  layer: Adaptable;
  rank: number;
  alpha: number;
}

/** What an adapter changes of a model: layers, and parameters trained whole, by name. */
export interface AdapterPlan {
  targets: ReadonlyMap<string, Target>;
  whole: ReadonlyMap<string, Parameter>;
}

/** `strict`: every name of the config must be that of a module. */
export function planOf(model: AnyModel, config: AdapterConfig, strict: boolean): AdapterPlan {
  const modules = [...model.namedModules()].filter(([name]) => name !== "");
  const saved = (config.modules_to_save ?? []).map((end) => modules.filter(([name]) => name.endsWith(end)));
  const whole = saved
    .flat()
    .flatMap(([name, module]) =>
      [...module.namedParameters()].map(([p, tensor]) => [`${name}.${p}`, tensor] as const),
    );
  const isWhole = (name: string) =>
    saved.flat().some(([outer]) => name === outer || name.startsWith(`${outer}.`));
  const layers = modules.filter(([name, module]) => module instanceof Adaptable && !isWhole(name));
  const named = config.target_modules!;
  const wanted =
    named === "all-linear"
      ? layers.filter(([, layer]) => !(layer instanceof Embedding || isHead(layer)))
      : modules.filter(([name]) => isNamed(name, named) && !isWhole(name));
  const chosen = wanted.filter(([name]) => !isNamed(name, config.exclude_modules ?? []));
  const other = chosen.find(([, module]) => !(module instanceof Adaptable));
  if (other) throw unknownModule(other[0], "is no layer that takes an adapter", layers);
  const unknown = [named]
    .flat()
    .filter(
      (name) => !wanted.some(([module]) => isNamed(module, typeof named === "string" ? named : [name])),
    );
  if (named !== "all-linear" && unknown.length > 0 && (strict || chosen.length === 0))
    throw unknownModule(unknown[0], "is the name of no module", layers);
  const targets = chosen.map(([name, layer]) => {
    const rank = patternValue(name, config.rank_pattern, config.r);
    const alpha = patternValue(name, config.alpha_pattern, config.lora_alpha);
    return [name, { layer: layer as Adaptable, rank, alpha }] as const;
  });
  return { targets: new Map(targets), whole: new Map(whole) };
}

function unknownModule(
  name: string,
  why: string,
  layers: readonly (readonly [string, unknown])[],
): KilnError {
  const ends = [...new Set(layers.map(([layer]) => layer.split(".").at(-1)!))];
  const near = nearestName(name.split(".").at(-1)!, ends);
  const hint = near ? `did you mean ${near}? ` : "";
  return new KilnError(
    `target_modules: ${quoted(name)} ${why}; ${hint}(an adapter can change ${ends.join(", ")})`,
    { code: "config_invalid" },
  );
}
