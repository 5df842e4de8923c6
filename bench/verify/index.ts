import { setDevice } from "../../core/device.ts";
import { KilnError } from "../../core/errors.ts";
import { describe } from "../../core/platform/adapter.ts";
import { WebGpuDevice } from "../../core/webgpu/device.ts";
import { openDevice } from "../../kernels/index.ts";
import { architectures, isModelType, modelTypeOf } from "../../models/architectures.ts";
import { type AdapterExpectation, verifyAdapter } from "./adapters.ts";
import { isChatFile, verifyChat } from "./chat.ts";
import { type CurveExpectation, verifyCurve } from "./curves.ts";
import { type Folder, readJsonFile, walk } from "./fixture.ts";
import { isMetricsFile, isRougeFile, verifyMetrics, verifyRouge } from "./metrics.ts";
import { type ModelExpectation, verifyModel } from "./models.ts";
import { isOpCases, verifyOps } from "./ops.ts";
import { isOptimFile, verifyOptimizers } from "./optim.ts";
import { isPreferenceFile, verifyPreference } from "./preference.ts";
import { isQuantFile, verifyQuant } from "./quant.ts";
import { type Counts, Report, type ReportOptions } from "./report.ts";
import { isSamplingFile, verifySampling } from "./sampling.ts";
import { verifySchedules } from "./schedules.ts";

export type VerifyOptions = ReportOptions;

const later = "not loaded by this version";

/**
 * Compares kiln on this machine's adapter with a folder of reference numbers (ops, optimizers, schedules, sampling, metrics,
 * models, loss curves), whatever its files are called and however many there are. Writes the adapter, a line for each case with
 * its largest error and what is allowed there, and `N passed, N failed, N skipped`. What belongs to other model types is
 * skipped; an op that kiln does not have fails. Runs on the open WebGPU device, or opens one for the time.
 *
 * @throws KilnError when the folder cannot be read or has no case that `filter` lets through.
 */
export async function verify(dir: string, options: VerifyOptions): Promise<Counts> {
  const folders = walk(dir);
  const report = new Report(options);
  const before = setDevice(null);
  const device = before instanceof WebGpuDevice ? before : await openDevice();
  setDevice(device);
  const { description } = device;
  options.write(options.json ? JSON.stringify({ adapter: description }) : describe(description));
  try {
    for (const folder of folders) await verifyFolder(report, folder);
  } finally {
    setDevice(before);
    if (device !== before) device.close();
  }
  if (report.results.length === 0) {
    const what = options.filter ? `no case whose name contains ${options.filter}` : "no reference numbers";
    throw new KilnError(`${dir} holds ${what}; give a folder laid out like tests/fixtures/golden`, {
      code: "fixtures_missing",
    });
  }
  return report.finish();
}

/** A file that cannot be read is one failure; the others are still worth checking. */
async function verifyFolder(report: Report, folder: Folder): Promise<void> {
  const attempt = (name: string, body: Promise<void>) =>
    body.catch((error: Error) => report.fail(name, error.message));
  if (folder.files.includes("expected.json"))
    return attempt(folder.name || "model", verifyExpected(report, folder));
  // A model without numbers is the base that an adapter names.
  if (folder.files.includes("config.json")) return;
  for (const file of folder.files.filter((name) => name.endsWith(".json"))) {
    const stem = file.slice(0, -".json".length);
    const prefix = folder.name ? `${folder.name}/${stem}` : stem;
    await attempt(prefix, verifyFile(report, folder, stem, prefix));
  }
}

async function verifyFile(report: Report, folder: Folder, stem: string, prefix: string): Promise<void> {
  const json = readJsonFile(folder, `${stem}.json`);
  if (isOpCases(json)) await verifyOps(report, folder, stem, prefix, json);
  else if (isQuantFile(json)) await verifyQuant(report, folder, stem, prefix, json);
  else if (isSamplingFile(json)) await verifySampling(report, prefix, json);
  else if (isOptimFile(json)) {
    await verifyOptimizers(report, folder, stem, prefix, json);
    if (json.schedules) await verifySchedules(report, `${prefix}/schedule`, json.schedules);
  } else if (isMetricsFile(json)) await verifyMetrics(report, prefix, json);
  else if (isRougeFile(json)) await verifyRouge(report, prefix, json);
  else if (isPreferenceFile(json)) await verifyPreference(report, prefix, json);
  else if (isChatFile(json)) await verifyChat(report, folder, prefix, json);
  else report.skip(prefix, later);
}

/** A folder with an adapter or a model: numbers of one pass, or the losses of a training run. */
async function verifyExpected(report: Report, folder: Folder): Promise<void> {
  if (folder.files.includes("adapter_config.json"))
    return verifyAdapter(report, folder, readJsonFile(folder, "expected.json") as AdapterExpectation);
  const config = folder.files.includes("config.json") ? readJsonFile(folder, "config.json") : null;
  const type = (config as { model_type?: unknown } | null)?.model_type;
  const expected = readJsonFile(folder, "expected.json") as ModelExpectation | CurveExpectation;
  const known = isModelType(type) ? architectures[modelTypeOf(config)].classNames : [];
  if (known.length === 0 || !known.includes(expected.class ?? known[0])) {
    report.skip(folder.name || "model", `${type}: ${later}`);
  } else if ("losses" in expected) await verifyCurve(report, folder, expected);
  else await verifyModel(report, folder, expected);
}
