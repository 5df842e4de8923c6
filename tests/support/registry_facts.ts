import type { Facts } from "../../models/registry/manifest.ts";

/** What is said of a version whose content the test does not look at. */
export const facts: Facts = {
  ...{ kind: "base", parents: [], base: null, data_sha256: null, config: null, metrics: null, note: "" },
  signature: {
    ...{ task: "text-generation", input: "text", output: "text", max_model_len: 8 },
    ...{ tokenizer_sha256: null, chat_template_sha256: null },
  },
};
