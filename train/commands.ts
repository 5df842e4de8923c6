import { dirname, join } from "node:path";
import { Option } from "commander";
import { usageError } from "../core/errors.ts";
import {
  byteCount,
  type Command,
  decimal,
  nonEmpty,
  say,
  untilInterrupted,
  whole,
} from "../core/platform/command_line.ts";
import { addDataCommands, type ReadStore } from "./data/conversations/commands.ts";
import { addDeployCommands } from "./deploy/commands.ts";
import { addEvalCommands } from "./eval/commands.ts";
import type { HostBatch, MakeGenerator, MakeSampler, Recipe } from "./recipe.ts";
import { type Flag, recipes } from "./recipes/index.ts";
import type { PretrainConfig } from "./recipes/pretrain.ts";
import type { RunResult } from "./run.ts";
import type { RunSettings } from "./settings/run.ts";

const openOnce = async () => (await import("../kernels/index.ts")).openOnce();

/** What writes texts is the server's, so the caller makes it, once it is needed. */
export interface Writers {
  makeSampler: () => Promise<MakeSampler>;
  makeGenerator: () => Promise<MakeGenerator>;
}

/** `kiln train …`, `kiln settings`, `sweep`, `export`, `deploy`, `stories`, `data` and `eval`. Everything is imported when it is needed: `--help` is instant. */
export function addTrainCommands(program: Command, writers: Writers, readStore: ReadStore): void {
  const train = program.command("train").description("train a model");
  for (const name of Object.keys(recipes)) addRecipe(train, name, writers);
  addSettings(program);
  addSweep(program);
  addExport(program);
  addDeployCommands(program, writers.makeGenerator);
  addStories(program);
  addDataCommands(program, readStore);
  addEvalCommands(program, writers.makeGenerator);
}

/** Flags that are a setting of every recipe, by its dotted name. They come after the file; messages name the flag. */
const settingFlags: readonly Flag[] = [
  ["--data <path...>", "data.path", "files or folders to train on"],
  [
    "--validation-data <path...>",
    "data.validation_path",
    "files to measure on, instead of a share of the data",
  ],
  ["--out <folder>", "out_dir", "folder of the run: checkpoints, logs, loss curve, model"],
  [
    "--init-from <model>",
    "model.init_from",
    "start from the weights, shape and tokenizer of this folder, run or pulled model",
  ],
  ["--steps <n>", "train.steps", "optimizer updates", whole(1)],
  ["--batch-size <n>", "train.batch_size", "sequences of one forward pass", whole(1)],
  ["--sequence-length <n>", "train.sequence_length", "tokens of one sequence", whole(2)],
  [
    "--learning-rate <x>",
    "train.learning_rate",
    "highest learning rate",
    decimal("a number above 0", (x) => x > 0),
  ],
  [
    "--compute-dtype <type>",
    "train.compute_dtype",
    "f32, or f16 for mixed precision (the adapter must have f16)",
  ],
  ["--seed <n>", "train.seed", "decides weights, order of the data and samples", whole(0)],
  [
    "--resume",
    "resume",
    "go on from the newest checkpoint of the run, with its settings and the flags given here",
  ],
  ["--resume-from <checkpoint>", "resume", "go on from an older one, e.g. step-000250"],
];

/** Adds a flag to a command; `read` gives the setting's value for what commander makes of it. */
function addSettingFlag(command: Command, [flag, setting, text, parse]: Flag) {
  const option = new Option(flag, text);
  // A flag without an argument is true, or what its parser makes of nothing.
  command.addOption(parse && !option.isBoolean() ? option.argParser(parse) : option);
  const read = (value: unknown) => (parse && option.isBoolean() ? parse("") : value);
  return { setting, from: option.long!, key: option.attributeName(), read };
}

function addRecipe(train: Command, name: string, writers: Writers): void {
  const { description, flags: own, takesModel, previews } = recipes[name];
  const [argument, given] = takesModel
    ? (["[model]", "model folder, run, GGUF file or pulled model; or a"] as const)
    : (["[config]", "a"] as const);
  const command = train
    .command(name)
    .argument(argument, `${given} YAML or JSON file of settings; flags and --set come on top of it`)
    .description(description);
  if (previews) command.option("--preview", "show what would be learned of the data, and train nothing");
  const options = [...settingFlags, ...own].map((flag) => addSettingFlag(command, flag));
  command
    .option("--set <name=value...>", "any other setting, e.g. --set train.optimizer.name=muon")
    .option(
      "--lr-range-test",
      "train nothing: find the rates at which a fresh model's loss falls (Smith 2017)",
    )
    .option("--json", "print the result as one JSON object")
    .examples(
      ...(takesModel ? [`kiln train ${name} MODEL --data FILE --out runs/first --steps 500`] : []),
      `kiln train ${name} settings.yaml --data FILE --out runs/first --steps 500`,
      `kiln train ${name} --out runs/first --resume`,
      `kiln train ${name} --out runs/first --resume --steps 1000 --learning-rate 5e-4`,
    )
    .addHelpText("after", () => `\nAll settings and their defaults: kiln settings ${name}\n`)
    .action(async (first: string | undefined, flags: Record<string, unknown>) => {
      const { loadSettings, parseOverrides } = await import("./settings/load.ts");
      const isModel = takesModel && first !== undefined && !/\.(ya?ml|json)$/i.test(first);
      const given = options.filter(({ key }) => flags[key] !== undefined);
      const overrides = [
        ...parseOverrides((flags.set as string[] | undefined) ?? []),
        ...given.map(({ setting, from, key, read }) => ({
          path: setting.split("."),
          value: read(flags[key]),
          from,
        })),
      ];
      if (isModel) overrides.push(startFrom(first, flags.initFrom));
      const recipe = await recipes[name].load();
      const settings = await loadSettings(recipe, isModel ? null : (first ?? null), overrides);
      if (flags.preview) {
        const text = await recipe.preview!(settings, process.stdout.isTTY === true);
        return void process.stdout.write(text);
      }
      const { describe } = await import("../core/platform/adapter.ts");
      say(describe((await openOnce()).description));
      if (flags.lrRangeTest) return await findRate(recipe, settings, writers, flags.json === true);
      const result = await runRecipe(name, settings, writers);
      const { model, tokenizer, samples, ...summary } = result;
      if (flags.json) process.stdout.write(`${JSON.stringify({ ...summary, samples })}\n`);
      else {
        const { lossText } = await import("./report/run_log.ts");
        const { CausalLM } = await import("../models/decoder.ts");
        const { modelDir, lossCurve } = summary;
        say(`${lossText(result, 4)}\nmodel: ${modelDir}\nloss curve: ${lossCurve}`);
        const whole = model.adapter ? join(dirname(modelDir), "merged") : modelDir;
        const tried = tokenizer.chatTemplate === null ? "sample" : "chat";
        if (model instanceof CausalLM) say(`try: kiln ${tried} ${whole}`);
      }
    });
}

/** The setting of the model that is a command's argument; `--init-from` may not name another beside it. */
function startFrom(model: string, initFrom: unknown) {
  if (initFrom === undefined) return { path: ["model", "init_from"], value: model, from: model };
  const message = `the model to start from is given twice, ${model} and by --init-from ${initFrom}: leave one out`;
  throw usageError(message);
}

function addSweep(program: Command): void {
  program
    .command("sweep")
    .argument("<config>", "YAML or JSON file: recipe, settings, the space to search, the metric")
    .description(
      "search settings of a recipe: trials drawn at random, the best of them trained longest (ASHA)",
    )
    .option("--trials <n>", "trials to draw; more than before go on with a finished sweep", whole(1))
    .option("--out <folder>", "folder of the sweep")
    .option("--parallel <n>", "trials that train at the same time", whole(1), 1)
    .option("--json", "print the result as one JSON object")
    .examples("kiln sweep sweep.yaml --trials 20", "kiln sweep sweep.yaml --json")
    .addHelpText(
      "after",
      `
A sweep file:
  recipe: pretrain
  config: docs/configs/tinyllm.yaml          # optional; relative to this file
  settings: { train.steps: 900 }
  space:
    train.learning_rate: { min: 1e-4, max: 1e-2, scale: log }
    train.optimizer.name: { values: [adamw, muon] }
  metric: validation_loss                    # lower is better for _loss, higher for any other
  asha: { min_steps: 100, eta: 3 }           # optional: without it every trial is trained to the end
`,
    )
    .action(
      async (path: string, flags: { trials?: number; out?: string; parallel: number; json?: boolean }) => {
        const { runSweep, sweepTable } = await import("./sweep/sweep.ts");
        const { config, ...result } = await interruptible((signal) =>
          runSweep(path, { ...flags, say, signal }),
        );
        if (flags.json) process.stdout.write(`${JSON.stringify(result)}\n`);
        else {
          process.stdout.write(`${sweepTable(config, result.trials)}\n`);
          say(`picture: ${result.picture}\nbest: ${result.folder}/${result.trials[0].name}/model`);
        }
      },
    );
}

function addSettings(program: Command): void {
  program
    .command("settings")
    .argument("[recipe]", "one of kiln train", "pretrain")
    .description("list every setting of kiln train pretrain, or of another recipe, with its default")
    .action(async (name: string) => {
      if (!Object.hasOwn(recipes, name)) {
        const names = Object.keys(recipes).join(", ");
        throw usageError(`there is no recipe ${name}; there is ${names}`);
      }
      const { describeSettings } = await import("./settings/load.ts");
      const { schema } = await recipes[name].load();
      for (const { name: setting, default: value, description } of describeSettings(schema)) {
        process.stdout.write(`${setting.padEnd(38)} ${value.padEnd(24)} ${description}\n`);
      }
    });
}

function addExport(program: Command): void {
  program
    .command("export")
    .argument(
      "<model>",
      "model folder in Hugging Face layout, adapter folder of PEFT, run, GGUF file, org/name after kiln pull, or NAME@VERSION of the registry",
    )
    .description("write a model or an adapter for another program, load that again and compare it")
    .addOption(
      new Option("--to <format>", "what to write; hf and ollama have an adapter merged into its base")
        .choices(["hf", "gguf", "ollama", "peft", "torchrun"])
        .makeOptionMandatory(),
    )
    .option("--base <model>", "the model that an adapter is for; default: the one that it names", nonEmpty)
    .choice(
      "--dtype <type>",
      "type of the weights; hf holds f32 and f16",
      ["f32", "f16", "q8_0", "q4_0"],
      "f32",
    )
    .requiredOption(
      "--out <path>",
      "folder (hf, ollama, peft, torchrun) or file (gguf) that does not exist yet",
      nonEmpty,
    )
    .addOption(
      new Option("--max-shard-size <size>", "hf: the largest file of weights, such as 5GB or 200MB")
        .argParser(byteCount)
        .default(5e9, "5GB"),
    )
    .option(
      "--steps <n>",
      "torchrun: updates of the whole run, those already done too; default: the run's",
      whole(1),
    )
    .examples(
      "kiln export runs/demo/model --to gguf --dtype q8_0 --out demo.gguf",
      "kiln export runs/demo/model --to ollama --dtype f16 --out demo-ollama",
      "kiln export runs/chat/model --to gguf --base runs/demo/model --out chat-lora.gguf",
      "kiln export runs/chat --to peft --out chat-adapter",
      "kiln export runs/demo --to torchrun --steps 10000 --out demo-torchrun",
    )
    .action(async (model: string, flags: ExportFlags) => {
      if (flags.to === "torchrun") return await handOver(model, flags.out, flags.steps);
      const { exportModel } = await import("./deploy/export.ts");
      const { comparisonText } = await import("./deploy/compare.ts");
      const { findModel } = await import("../models/hub/resolve.ts");
      const path = await findModel(model);
      await openOnce();
      const { to, dtype, base, out, maxShardSize: maxShardBytes } = flags;
      say(comparisonText(await exportModel(path, { to, dtype, base, out, maxShardBytes })));
      process.stdout.write(`${flags.out}\n`);
    });
}

function addStories(program: Command): void {
  program
    .command("stories")
    .description(
      "write built-in stories, or conversations about them, as JSON Lines to learn from or to measure on",
    )
    .option("--count <n>", "how many", whole(1), 1000)
    .option("--seed <n>", "another seed gives others", whole(0), 0)
    .option("--chats", "conversations in which someone asks for a story, for kiln train sft")
    .examples(
      "kiln stories --chats --count 2000 > chats.jsonl",
      "kiln stories --count 200 --seed 1 > held-out.jsonl",
    )
    .action(async ({ count, seed, chats }: { count: number; seed: number; chats?: boolean }) => {
      const { story, storyChat } = await import("./data/index.ts");
      for (let i = 0; i < count; i++) {
        const row = chats ? storyChat(seed, i) : { text: story(seed, i) };
        process.stdout.write(`${JSON.stringify(row)}\n`);
      }
    });
}

type ExportFlags = Omit<import("./deploy/export.ts").ExportOptions, "to" | "maxShardBytes"> & {
  maxShardSize: number;
} & ({ to: import("./deploy/export.ts").ExportTarget } | { to: "torchrun"; steps?: number });

async function handOver(run: string, out: string, steps?: number): Promise<void> {
  const { exportTorchrun } = await import("./deploy/torchrun.ts");
  await openOnce();
  const { step, updates } = await exportTorchrun(run, { out, steps, say });
  say(`updates ${step + 1} to ${step + updates}: torchrun --nproc_per_node 2 ${out}/train.py`);
  process.stdout.write(`${out}\n`);
}

export const runPretraining = (config: PretrainConfig, writers: Writers) =>
  runRecipe("pretrain", config, writers);

/** Trains with samples drawn by the server's generator. */
async function runRecipe(name: string, config: RunSettings, writers: Writers): Promise<RunResult> {
  const { run } = await import("./run.ts");
  const { supervisor } = await import("../core/platform/supervisor.ts");
  const recipe = await recipes[name].load();
  await openOnce();
  return interruptible(async (signal) =>
    run(recipe, {
      ...{ config, say, signal, makeSampler: await writers.makeSampler() },
      supervisor: supervisor(signal),
    }),
  );
}

/** `--lr-range-test`. */
async function findRate(
  recipe: Recipe<RunSettings, HostBatch>,
  config: RunSettings,
  writers: Writers,
  json: boolean,
): Promise<void> {
  const { lrRangeTest } = await import("./lr_range_test.ts");
  const sampler = await writers.makeSampler();
  const { trials, steepest, suggestion, picture } = await interruptible((signal) =>
    lrRangeTest(recipe, { config, say, signal, makeSampler: sampler }),
  );
  if (json)
    return void process.stdout.write(`${JSON.stringify({ trials, steepest, suggestion, picture })}\n`);
  const found =
    suggestion === null
      ? "the loss fell at no rate: look at the data, or at the model's size"
      : `the loss falls fastest at ${steepest}; try --learning-rate ${suggestion}`;
  say(`${found}\npicture: ${picture}`);
}

/** Runs `body`; the first Ctrl-C asks it to end with its work saved, the second ends the process at once. */
const interruptible = <T>(body: (signal: AbortSignal) => Promise<T>) =>
  untilInterrupted("\nstopping after this step; once more to stop at once without saving", body);
