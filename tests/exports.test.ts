import { describe, expect, it } from "vitest";
import * as kiln from "../index.ts";
import * as kernels from "../kernels/index.ts";
import * as nn from "../nn/index.ts";

/** What kernels/index.ts exports for the rooms above it only, by the reason why a user of the package has no need of it. */
const internal: Record<string, readonly string[]> = {
  "the optimizers of kiln/train do it": [
    ...[
      "adafactorStep",
      "adam8bitShapes",
      "adam8bitStep",
      "adam8bitTable",
      "adamStep",
      "countApplied",
      "descend",
      "globalNorm",
      "hyperNames",
      "hyperValues",
    ],
    ...["lionStep", "lossScalerNames", "muonMomentum", "rmspropStep", "roundBfloat16", "sgdStep"],
    "updateLossScale",
  ],
  "the server and the decoders of kiln/models do it": [
    ...[
      "fusedLinear",
      "fusedQkv",
      "greedyTokens",
      "loraRows",
      "pagedAttention",
      "pagedKvWrite",
      "suitsFusion",
    ],
    ...[
      "MOST_DRAWN",
      "SETTINGS_WIDTH",
      "drawToken",
      "feedTokens",
      "keptWeights",
      "sampleTokens",
      "settingsRow",
    ],
    "kthLargest",
  ],
  "parts of conv, pool, fold and unfold": [
    ...["batched", "overlapAdd", "padSpatial", "perAxis", "spatialWindows", "windows"],
  ],
  "layers with adapters and quantized ones do it": [
    "activate",
    "dequantize",
    "quantizedMatmul",
    "quantizeNf4",
    "toWords",
  ],
  "derivatives and checks of public functions": [
    "countSupervised",
    "isIndex",
    "overRowChunks",
    "softmaxBackward",
  ],
  "openDevice is it for users": ["openOnce"],
};

describe("exports", () => {
  it("kiln or kiln/nn has every function of the kernels but those listed as internal", () => {
    const open = Object.keys(kernels).filter((name) => !(name in kiln) && !(name in nn));
    // Descriptors of ops, which their functions apply.
    const functions = open.filter((name) => !name.endsWith("Op"));
    expect(functions.sort()).toEqual(Object.values(internal).flat().sort());
  });
});
