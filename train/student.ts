import { architectures, createModel, modelTypeOf, parseModelConfig } from "../models/architectures.ts";
import type { CausalLM } from "../models/decoder.ts";
import type { Encoder } from "../models/encoder.ts";
import { configError } from "../models/formats/validation.ts";

/** A model with fewer layers, spread evenly from the teacher's first to its last: 0, 2, 4, 7, 9, 11 of 12, as DistilBERT. */
export async function studentOf<M extends CausalLM | Encoder>(teacher: M, asked?: number): Promise<M> {
  const { num_hidden_layers: all } = teacher.shape;
  const layers = asked ?? Math.ceil(all / 2);
  if (layers > all) throw configError(`model.num_hidden_layers is ${layers}: at most the teacher's ${all}`);
  const { overrides } = architectures[modelTypeOf(teacher.config)];
  const config = { ...teacher.toHfConfig(), ...overrides({ num_hidden_layers: layers }) };
  const student = createModel(parseModelConfig(config, "the student")) as M;
  const taken = (layer: number) => (layers === 1 ? 0 : Math.round((layer * (all - 1)) / (layers - 1)));
  const from = teacher.namedParameters();
  for (const [name, parameter] of student.namedParameters()) {
    const origin = name.replace(/\.(h|layers?)\.(\d+)\./, (_, kind, n) => `.${kind}.${taken(Number(n))}.`);
    parameter.write(await from.get(origin)!.data());
  }
  return student;
}
