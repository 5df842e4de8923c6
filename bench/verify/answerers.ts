import { type Tensor, tensor } from "../../core/tensor.ts";
import type { EncoderDecoder } from "../../models/encoder_decoder.ts";
import type { GenerateOptions } from "../../models/index.ts";
import type { TensorFile } from "./fixture.ts";
import type { Subject } from "./models.ts";
import { type Comparison, compare, worst } from "./report.ts";

/** An encoder-decoder over the batch of a file: texts with padding hidden by a mask, and what the decoder reads. */
export function answererSubject(model: EncoderDecoder, file: TensorFile): Subject {
  const i32 = (name: string) => tensor(file.integers(name), file.get(name).shape, "i32");
  const source = () => {
    const [rows, length] = file.get("attention_mask").shape;
    const mask = tensor(file.integers("attention_mask"), [rows, 1, 1, length], "bool");
    return { tokens: i32("input_ids"), mask };
  };
  return {
    model,
    forward(): Record<string, Tensor> {
      const found: Record<string, Tensor> = {};
      const recorder = (half: string) => {
        let layer = 0;
        return (x: Tensor) => {
          found[`${half}.${layer++}`] = x;
        };
      };
      const encoded = model.encode(source(), recorder("encoder"));
      const hidden = model.decode(i32("decoder_input_ids"), encoded, source(), recorder("decoder"));
      return { ...found, logits: model.logits(hidden) };
    },
    inputs: () => ({ ...source(), labels: i32("labels") }),
    supervised: () => file.integers("labels").filter((label) => label !== -100).length,
  };
}

export interface Generation {
  options: GenerateOptions;
  ids: number[][];
}

/** The answers to the file's texts, their padding left out, with each of these settings. */
export async function compareAnswers(
  model: EncoderDecoder,
  file: TensorFile,
  cases: readonly Generation[],
): Promise<Comparison> {
  const ids = file.integers("input_ids");
  const real = file.integers("attention_mask");
  const [rows, length] = file.get("input_ids").shape as [number, number];
  const texts = Array.from({ length: rows }, (_, r) =>
    Array.from(ids.subarray(r * length, (r + 1) * length)).filter((_, i) => real[r * length + i] === 1),
  );
  const comparisons: Comparison[] = [];
  for (const { options, ids: expected } of cases) {
    const found = await model.generate(texts, options);
    const label = JSON.stringify(options);
    expected.forEach((want, r) => {
      comparisons.push(compare(found[r], want, { atol: 0 }, `${label}, text ${r + 1}`));
    });
  }
  return worst(comparisons);
}
