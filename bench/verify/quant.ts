import { dispose, persist, scope } from "../../core/scope.ts";
import { tensor, zeros } from "../../core/tensor.ts";
import { dynamicMap, quantizeBlocks } from "../../kernels/include/blockwise.ts";
import { dequantize, quantizeNf4, toWords } from "../../kernels/index.ts";
import { nf4Map } from "../../kernels/quantized_matmul/nf4.ts";
import { AdamW8bit } from "../../train/optimizers/index.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";

/** Quantized numbers: for each matrix NAME in the file its `NAME.offset`, and how codes are packed. */
export type QuantFile = Record<string, unknown> & { packing: string };

export const isQuantFile = (json: unknown): json is QuantFile =>
  typeof (json as Partial<QuantFile> | null)?.packing === "string";

const exact = { atol: 0 };

/** NF4 of each matrix, the maps of 8-bit numbers, and the states of 8-bit AdamW: every bit. */
export async function verifyQuant(
  report: Report,
  folder: Folder,
  stem: string,
  prefix: string,
  json: QuantFile,
) {
  const file = new TensorFile(folder, stem);
  const same = (got: ArrayLike<number>, name: string) =>
    compare(got, file.isFloat(name) ? file.floats(name) : file.integers(name), exact, name);
  const matrices = file.names().filter((name) => name.endsWith(".weight"));
  for (const name of matrices.map((weight) => weight.slice(0, -".weight".length)))
    await report.check(`${prefix}/${name}`, () =>
      compareNf4(file, name, Number(json[`${name}.offset`]), same),
    );
  await report.check(`${prefix}/maps`, () =>
    worst([same(dynamicMap(true), "map.signed"), same(dynamicMap(false), "map.unsigned")]),
  );
  if (file.has("block8.x"))
    await report.check(`${prefix}/block8`, () => compareStates(file.floats("block8.x"), same));
}

type Same = (got: ArrayLike<number>, name: string) => Comparison;

async function compareNf4(file: TensorFile, name: string, offset: number, same: Same): Promise<Comparison> {
  const weight = file.floats(`${name}.weight`);
  const [rows, columns] = file.get(`${name}.weight`).shape as [number, number];
  const { codes, absmax } = quantizeBlocks(weight, nf4Map, 64);
  const nf4 = quantizeNf4(weight);
  const words = toWords(nf4, weight.length);
  const matrix = scope(() => dequantize({ words: tensor(words, [words.length], "u32"), rows, columns }));
  const onDevice = await matrix.data();
  dispose(matrix);
  return worst([
    same(nf4.packed, `${name}.packed`),
    same(absmax, `${name}.absmax`),
    same(
      Array.from(codes, (code, i) => Math.fround(nf4Map[code] * absmax[i >> 6])),
      `${name}.dequantised`,
    ),
    same(nf4.absmaxCodes, `${name}.nested_codes`),
    same(nf4.nestedAbsmax, `${name}.nested_absmax`),
    compare([nf4.offset], [offset], exact, `${name}.offset`),
    same(onDevice, `${name}.double_dequantised`),
  ]);
}

/** Without memory of earlier steps the mean of gradients is the gradient. */
async function compareStates(gradient: Float32Array, same: Same): Promise<Comparison> {
  const parameter = persist(zeros([gradient.length]));
  const optimizer = new AdamW8bit([parameter], { betas: [0, 0.999], min8bitSize: 0 });
  scope(() => optimizer.step([tensor(gradient)]));
  const [words, magnitudes] = [...optimizer.state().values()];
  const bytes = new Uint8Array(Uint32Array.from(await words.data()).buffer);
  const absmax = (await magnitudes.data()).subarray(0, Math.ceil(gradient.length / 256));
  dispose([parameter, words, magnitudes]);
  const codes = bytes.subarray(0, gradient.length);
  const values = Array.from(codes, (code, i) => Math.fround(dynamicMap(true)[code] * absmax[i >> 8]));
  return worst([
    same(codes, "block8.codes"),
    same(absmax, "block8.absmax"),
    same(values, "block8.dequantised"),
  ]);
}
