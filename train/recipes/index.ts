import { decimal, whole } from "../../core/platform/command_line.ts";
import type { HostBatch, Recipe } from "../recipe.ts";
import type { RunSettings } from "../settings/run.ts";

/** A flag that is a setting, by its dotted name. */
export type Flag = readonly [
  flag: string,
  setting: string,
  description: string,
  parse?: (text: string) => unknown,
];

/** `kiln train NAME`. */
interface Command {
  /** A line of help. */
  description: string;
  /** Flags besides those of every recipe. */
  flags: readonly Flag[];
  /** Whether the argument may be a model to start from, `model.init_from`. */
  takesModel?: boolean;
  /** Whether the recipe has a `preview`. */
  previews?: boolean;
}

/** The command, and the recipe, loaded when it is needed. */
interface Row extends Command {
  load(): Promise<Recipe<RunSettings, HostBatch>>;
}

const row = <C extends RunSettings, B extends HostBatch, I extends object>(
  command: Command,
  load: () => Promise<{ recipe: Recipe<C, B, I> }>,
): Row => ({
  ...command,
  load: async () => (await load()).recipe as unknown as Recipe<RunSettings, HostBatch>,
});

/** Flags of recipes that can train an adapter (`settings/adapter.ts`). */
const adapterFlags: readonly Flag[] = [
  [
    "--adapter <kind>",
    "adapter.kind",
    "none: the whole model; lora: an adapter, in PEFT's format; qlora: one of a model in 4 bits",
  ],
  ["--rank <n>", "adapter.rank", "rank of the adapter; default 8", whole(1)],
  ["--alpha <x>", "adapter.alpha", "its change is scaled by alpha / rank; default 16", decimal()],
  [
    "--targets <names>",
    "adapter.targets",
    "layers that it changes, such as q_proj,v_proj, or all-linear; default: those of PEFT",
    (text) => text.split(","),
  ],
  ["--rslora", "adapter.rslora", "scale by alpha / sqrt(rank)"],
  ["--dora", "adapter.dora", "train the lengths of the matrices' rows too"],
];

/** Flags of recipes that learn from labelled texts. */
const labelledFlags: readonly Flag[] = [
  ["--test-data <path...>", "data.test_path", "files to measure the finished model on, once"],
  ["--text <column...>", "data.text", "column of the text, or several that are joined"],
  ["--label <column...>", "data.label", "column of the label, or several of 0 and 1"],
  ["--format <name>", "data.format", "csv, tsv, json, jsonl, parquet, label-first or fasttext"],
];

const fromScratch: Flag = [
  "--from-scratch",
  "model.init_from",
  "train a new model, whatever the settings say",
  () => null,
];

/** Every recipe, by its name. How to add one: docs/adding-a-recipe.md. */
export const recipes: Readonly<Record<string, Row>> = {
  pretrain: row(
    {
      description:
        "train a Llama (or a GPT-2) from scratch on text, JSONL, or gzip of either; without data on built-in stories",
      flags: [["--vocab-size <n>", "tokenizer.vocab_size", "size of the tokenizer to train", whole(1)]],
    },
    () => import("./pretrain.ts"),
  ),
  sft: row(
    {
      description: "teach a model to chat: train it on conversations or on instructions and responses",
      flags: adapterFlags,
      takesModel: true,
      previews: true,
    },
    () => import("./sft.ts"),
  ),
  preference: row(
    {
      description: "teach a chat model which of two replies is better (DPO, IPO)",
      flags: adapterFlags,
      takesModel: true,
    },
    () => import("./preference.ts"),
  ),
  classify: row(
    {
      description: "train a text classifier on labelled texts, from scratch or from an encoder",
      flags: [fromScratch, ...labelledFlags, ...adapterFlags],
      takesModel: true,
    },
    () => import("./classify.ts"),
  ),
  mlm: row(
    {
      description: "teach an encoder to guess masked tokens of text, from scratch or from another",
      flags: [fromScratch],
      takesModel: true,
    },
    () => import("./mlm.ts"),
  ),
  embed: row(
    {
      description: "teach an encoder to find the passage that answers a query: vectors for search by meaning",
      flags: [
        fromScratch,
        ["--query <column>", "data.query", "column of the query or title"],
        ["--passage <column>", "data.passage", "column of the passage or text"],
        ["--format <name>", "data.format", "csv, tsv, json, jsonl or parquet"],
      ],
      takesModel: true,
    },
    () => import("./embed.ts"),
  ),
  distil: row(
    {
      description:
        "train a student with half the layers to say what its teacher says: a language model or a classifier (DistilBERT)",
      flags: labelledFlags,
      takesModel: true,
    },
    () => import("./distil.ts"),
  ),
};
