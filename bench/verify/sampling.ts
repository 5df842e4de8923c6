import { probabilities } from "../../serve/engine/sampler.ts";
import { resolveSampling } from "../../serve/text/sampling.ts";
import { compare, type Report, worst } from "./report.ts";

/** Probabilities after one logits processor each, on fixed logits. */
export interface SamplingFile {
  logits: number[][];
  /** What the repetition penalty has seen. */
  input_ids: number[][];
  cases: { name: string; attrs: Record<string, number>; probs: number[][] }[];
}

export function isSamplingFile(json: unknown): json is SamplingFile {
  const file = json as Partial<SamplingFile> | null;
  return Array.isArray(file?.logits) && Array.isArray(file.cases);
}

/** Kept tokens within 1e-5 of the reference, in float64 from float32 logits. */
const tolerance = { atol: 1e-5 };

export async function verifySampling(report: Report, stem: string, file: SamplingFile): Promise<void> {
  for (const { name, attrs, probs } of file.cases) {
    await report.check(`${stem}/${name}`, () =>
      worst(
        file.logits.map((row, i) => {
          const params = { ...resolveSampling(attrs, row.length, () => [0, 0]), choice: 0 };
          const history = file.input_ids[i];
          const got = probabilities(Float32Array.from(row), {
            params,
            history,
            promptLength: history.length,
            position: history.length,
            banned: null,
            constraint: null,
            topLogprobs: 0,
          });
          return compare(got, probs[i], tolerance, `row ${i}`);
        }),
      ),
    );
  }
}
