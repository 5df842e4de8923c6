import type { EncoderModel, ModelPool } from "../../models.ts";
import type { Encode } from "../retrieval/index.ts";

/** Texts of one request: between two, others have their turn at the model. */
const AT_ONCE = 64;

/** The first model of a server that makes vectors of texts, as what search needs of it; null while there is none. */
export function encoderOf(models: ModelPool): () => Encode | null {
  const made = new WeakMap<EncoderModel, Encode>();
  return () => {
    for (const [, model] of models) {
      if (model.kind !== "encoder" || model.frontend.task.name !== "embed") continue;
      const encode = made.get(model) ?? encodeBy(model);
      made.set(model, encode);
      return encode;
    }
    return null;
  };
}

const encodeBy =
  ({ frontend }: EncoderModel): Encode =>
  async (texts) => {
    const vectors: Float32Array[] = [];
    for (let i = 0; i < texts.length; i += AT_ONCE) {
      const inputs = texts.slice(i, i + AT_ONCE);
      const job = await frontend.start({ inputs, client: "documents", truncate: -1 });
      for (const vector of await job.done) vectors.push(unit(vector));
    }
    return vectors;
  };

/** A model's vectors may have any length; search compares angles. */
function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((value) => value / length) : vector;
}
