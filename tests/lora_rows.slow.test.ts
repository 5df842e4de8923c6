import { it } from "vitest";
import { openDevice } from "../kernels/index.ts";
import { loraRowsSuite, untied } from "./support/lora_rows_suite.ts";
import { gpt2Adapters, llamaAdapters } from "./support/tiny_adapters.ts";
import { tinyGpt2 } from "./support/tiny_decoders.ts";

// Compiling kernels for f16 takes most of the time.
if ((await openDevice()).profile.f16) {
  loraRowsSuite("a Llama in f16", () => untied().computeIn("f16"), llamaAdapters, 0.01);
  loraRowsSuite("a GPT-2 in f16", () => tinyGpt2().computeIn("f16"), gpt2Adapters, 0.01);
} else it.skip("no shader-f16", () => {});
