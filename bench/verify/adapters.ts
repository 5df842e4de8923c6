import { join } from "node:path";
import { dispose } from "../../core/scope.ts";
import { mergeAdapter, removeAdapter, useAdapter } from "../../models/adapters.ts";
import { loadAdapter } from "../../models/formats/peft_directory.ts";
import type { Model } from "../../models/model.ts";
import { type Folder, TensorFile } from "./fixture.ts";
import { compareGradients, differentiate, forward, loadFixture, near, subjectOf } from "./models.ts";
import { type Comparison, compare, type Report, worst } from "./report.ts";

/** `expected.json` of an adapter. */
export interface AdapterExpectation {
  /** The folder of its model, beside its own. */
  base: string;
  loss: number;
}

/** The parameter that PEFT calls this while it trains. */
const savedName = (name: string) =>
  name
    .replace(".modules_to_save.default", "")
    .replace(".default", "")
    .replace(/(_magnitude_vector)\.weight$/, "$1");

/** Logits, loss and every gradient with the adapter applied; matrices and logits with it merged. */
export async function verifyAdapter(
  report: Report,
  folder: Folder,
  expected: AdapterExpectation,
): Promise<void> {
  const name = folder.name || "adapter";
  const parts = ["logits", "loss", "gradients", "merged", "merged_logits"].map((part) => `${name}/${part}`);
  if (!parts.some((part) => report.wants(part))) return;
  const file = new TensorFile(folder, "expected");
  const model = await loadFixture(join(folder.path, "..", expected.base));
  const subject = subjectOf(model, file);
  await loadAdapter(model, folder.path);
  useAdapter(model, "default");
  const compareLogits = async () =>
    compare((await forward(subject)).get("logits")!, file.floats("logits"), near);
  const { loss, gradients } = await differentiate(subject, model.trainedParameters());
  const [applied, lossPart, slopes, matrices, merged] = parts;
  await report.check(applied, compareLogits);
  await report.check(lossPart, () => compare([loss], [expected.loss], near));
  await report.check(slopes, () => compareGradients(gradients, file, savedName));
  await mergeAdapter(model, () => subject.forward(() => {}).logits);
  await report.check(matrices, () => compareMatrices(model, file));
  await report.check(merged, compareLogits);
  removeAdapter(model, "default");
  dispose(model.parameters());
}

async function compareMatrices(model: Model<never>, file: TensorFile): Promise<Comparison> {
  const parameters = model.namedParameters();
  const comparisons: Comparison[] = [];
  for (const key of file.names().filter((name) => name.startsWith("merged."))) {
    const values = await parameters.get(key.slice("merged.".length))!.data();
    comparisons.push(compare(values, file.floats(key), { atol: 1e-6, rtol: 1e-5 }, key));
  }
  return worst(comparisons);
}
