import { type Tensor, tensor } from "../../core/tensor.ts";
import { narrow, reshape } from "../../kernels/index.ts";
import type { Encoder, EncoderInput } from "../../models/encoder.ts";
import { normalized, pool } from "../../nn/index.ts";
import type { TensorFile } from "./fixture.ts";
import type { Subject } from "./models.ts";

/** A batch of texts as transformers takes it: a text a row, padding hidden by a mask. Names of its tensors end in `suffix`. */
function inputOf(model: Encoder, file: TensorFile, suffix = "") {
  const ids = file.integers(`input_ids${suffix}`);
  const real = file.integers(`attention_mask${suffix}`);
  const [rows, length] = file.get(`input_ids${suffix}`).shape as [number, number];
  const lines = Array.from({ length: rows }, (_, r) => ids.subarray(r * length, (r + 1) * length));
  const i32 = (values: ArrayLike<number>, shape = [rows, length]) => tensor(values, shape, "i32");
  const last = lines.map((_, r) => real.subarray(0, (r + 1) * length).lastIndexOf(1));
  const deciding = model.decidingToken === "last" ? last : last.map((_, r) => r * length);
  const types = `token_type_ids${suffix}`;
  return {
    tokens: i32(ids),
    positions: i32(lines.flatMap((line) => model.positionsOf(line))),
    mask: tensor(real, [rows, 1, 1, length], "bool"),
    ...(file.has(types) && { tokenTypes: i32(file.integers(types)) }),
    ...(model.task === "text-classification" && { rows: i32(deciding, [rows]) }),
  } satisfies EncoderInput;
}

/** The labels, and how many of them the mean loss is divided by. */
function labelsOf(model: Encoder, file: TensorFile, suffix = "") {
  if (model.task === "question-answering") {
    const [starts, ends] = ["start", "end"].map((which) => file.integers(`${which}_positions${suffix}`));
    const values = Array.from(starts, (start, i) => [start, ends[i]]).flat();
    return { values, shape: [starts.length, 2], dtype: "i32", supervised: starts.length } as const;
  }
  const name = `labels${suffix}`;
  const dtype = file.isFloat(name) ? "f32" : "i32";
  const values: ArrayLike<number> = dtype === "f32" ? file.floats(name) : file.integers(name);
  const supervised = Array.from(values).filter((value) => value !== -100).length;
  return { values, shape: file.get(name).shape, dtype, supervised } as const;
}

/** An encoder over the batches of a file. */
export function encoderSubject(model: Encoder, file: TensorFile): Subject {
  return {
    model,
    forward(each): Record<string, Tensor> {
      const input = inputOf(model, file);
      const [rows, length] = input.tokens.shape as [number, number];
      if (model.task === "feature-extraction") {
        const hidden = model.hidden(input, each);
        const vectors = (how: "mean" | "cls") =>
          normalized(pool(hidden, reshape(input.mask, [rows, length]), how));
        return { hidden, mean: vectors("mean"), cls: vectors("cls") };
      }
      const logits = model.logits(input, each);
      if (model.task !== "question-answering") return { logits };
      return { start_logits: narrow(logits, 1, 0, 1), end_logits: narrow(logits, 1, 1, 1) };
    },
    inputs(suffix) {
      const { values, shape, dtype } = labelsOf(model, file, suffix);
      return { ...inputOf(model, file, suffix), labels: tensor(values, shape, dtype) };
    },
    supervised: (suffix) => labelsOf(model, file, suffix).supervised,
  };
}
