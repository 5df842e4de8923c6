import fc from "fast-check";
import { scope } from "../../core/scope.ts";
import { tensor } from "../../core/tensor.ts";
import type { WebGpuDevice } from "../../core/webgpu/device.ts";
import {
  type DrawSettings,
  drawToken,
  SETTINGS_WIDTH,
  sampleTokens,
  settingsRow,
} from "../../kernels/index.ts";

export const settings: fc.Arbitrary<DrawSettings> = fc.record({
  temperature: fc.constantFrom(0, 1e-5, 0.01, 0.3, 0.7, 1, 1, 1.3, 2),
  topK: fc.constantFrom(0, 0, 1, 2, 5, 40, 900),
  topP: fc.oneof(
    fc.constantFrom(1, 1, 0.5, 0.9, 0.95, 1e-12),
    fc.double({ min: 0.01, max: 0.999, noNaN: true }),
  ),
  minP: fc.constantFrom(0, 0, 0.05, 0.5, 1),
  seed: fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff)),
  choice: fc.nat(200),
  position: fc.nat(4096),
});

/** Logits of many shapes: peaked, flat, tied, far from zero, at the ends of what f32 holds, any bits at all. */
const rowOf = (width: number): fc.Arbitrary<Float32Array> => {
  const list = (of: fc.Arbitrary<number>) => fc.array(of, { minLength: width, maxLength: width });
  const bits = fc.nat(0xffffffff).map((word) => new Float32Array(Uint32Array.of(word).buffer)[0]);
  const spread = fc.tuple(fc.constantFrom(0.1, 1, 4, 12), fc.constantFrom(0, -100, 300, 1e5, -3e30));
  const usual = spread.chain(([scale, offset]) =>
    list(fc.double({ min: -1, max: 1, noNaN: true }).map((x) => offset + x * scale * (1 + Math.abs(x)))),
  );
  return fc
    .oneof(
      { weight: 6, arbitrary: usual },
      { weight: 2, arbitrary: list(fc.constantFrom(0, -0, 1, 1, 2, 2.5, -Infinity)) },
      { weight: 1, arbitrary: list(fc.constantFrom(0, 1e-42, -1e-42, 3e38, -3e38, 1e-20, 64, 63.99999)) },
      { weight: 1, arbitrary: list(bits) },
    )
    .map((values) => Float32Array.from(values));
};

export async function onDevice(
  rows: readonly Float32Array[],
  of: readonly DrawSettings[],
): Promise<number[]> {
  const words = tensor(of.flatMap(settingsRow), [of.length, SETTINGS_WIDTH], "i32");
  const logits = new Float32Array(rows.length * rows[0].length);
  // Copied by bits: NaN keeps its payload.
  const into = new Uint32Array(logits.buffer);
  for (const [i, row] of rows.entries()) {
    into.set(new Uint32Array(row.buffer, row.byteOffset, row.length), i * row.length);
  }
  const ids = scope(() => sampleTokens(tensor(logits, [rows.length, rows[0].length]), words));
  return [...(await ids.data())];
}

/** Draws from 50 rows with 50 settings at a time, on the device with one worker and on the host. @throws where they differ. */
export async function drawAlike(gpu: WebGpuDevice, variant: string, numRuns: number): Promise<void> {
  const many = { minLength: 50, maxLength: 50 };
  const batch = fc
    .constantFrom(1, 3, 7, 64, 65, 300)
    .chain((width) => fc.tuple(fc.array(rowOf(width), many), fc.array(settings, many)));
  gpu.forcedVariant.set("sample_tokens", variant);
  try {
    await fc.assert(
      fc.asyncProperty(batch, async ([rows, each]) => {
        const ids = await onDevice(rows, each);
        rows.forEach((row, i) => {
          const expected = drawToken(row, settingsRow(each[i]));
          if (ids[i] !== expected) {
            throw new Error(`${ids[i]}, not ${expected}: ${JSON.stringify([each[i], [...row]])}`);
          }
        });
      }),
      { numRuns, endOnFailure: true },
    );
  } finally {
    gpu.forcedVariant.delete("sample_tokens");
  }
}
