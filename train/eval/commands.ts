import { InvalidArgumentError } from "commander";
import { usageError } from "../../core/errors.ts";
import {
  type Command,
  decimal,
  nonEmpty,
  say,
  untilInterrupted,
  whole,
} from "../../core/platform/command_line.ts";
import type { Encoder } from "../../models/encoder.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import type { MakeGenerator } from "../recipe.ts";
import type { EvaluationReport } from "../report/evaluation.ts";
import type { BiasFlags } from "./bias.ts";
import type { ChatFlags } from "./chat.ts";
import type { ClassifyFlags } from "./classify.ts";
import type { CodeFlags } from "./code.ts";
import type { CoherenceFlags } from "./coherence.ts";
import type { CompareFlags } from "./compare.ts";
import type { PerplexityFlags } from "./perplexity.ts";
import type { TextFlags } from "./text.ts";

/** Flags of every evaluation. */
interface OutputFlags {
  json?: boolean;
  out?: string;
  dtype?: "f32" | "f16";
}

/** `kiln eval …`. Everything is imported when it is needed: `--help` is instant. */
export function addEvalCommands(program: Command, makeGenerator: () => Promise<MakeGenerator>): void {
  const group = program.command("eval").description("measure a model, or texts that one wrote");
  addPerplexity(group);
  addText(group);
  addClassify(group);
  addChoice(group);
  addCode(group, makeGenerator);
  addChat(group, makeGenerator);
  addCompare(group);
  addBias(group);
  addCoherence(group);
}

const temperature = decimal("a number from 0 to 2", (x) => x >= 0 && x <= 2);
const modelArgument =
  "model folder, finished run, GGUF file, org/name after kiln pull, or NAME@VERSION of the registry";

const withOutput = (command: Command) =>
  command
    .option("--json", "print the result as one JSON object instead of Markdown")
    .option("--out <folder>", "also write report.json, report.md and report.html here", nonEmpty);

/** Options of evaluations that run a model. */
const withModel = (command: Command) =>
  withOutput(command)
    .choice("--dtype <type>", "type of weights and activations", ["f32", "f16"])
    .option(
      "--speed",
      "report tokens a second, milliseconds of one text, bytes on the device and parameters",
    );

/** Prints a report, and writes it where `--out` says. */
async function finish(report: EvaluationReport, { json, out }: OutputFlags): Promise<void> {
  const { reportMarkdown, writeReport } = await import("../report/evaluation.ts");
  if (out !== undefined) await writeReport(out, report);
  process.stdout.write(json ? `${JSON.stringify(report.values)}\n` : reportMarkdown(report));
  if (out !== undefined) say(`report: ${out}/report.html`);
}

/** Opens the device; where the models are that a person names. */
async function opened(...given: string[]): Promise<string[]> {
  const { resolveModel } = await import("../../models/hub/resolve.ts");
  const paths = await Promise.all(given.map(resolveModel));
  await (await import("../../kernels/index.ts")).openOnce();
  return paths;
}

/** Loads a model that writes text. */
async function decoder(given: string, dtype?: "f32" | "f16"): Promise<LoadedModel> {
  const [path] = await opened(given);
  return (await import("../../models/formats/hf_directory.ts")).loadModel(path, dtype);
}

/** Options of evaluations that cut texts into windows. */
const withWindows = (command: Command) =>
  command
    .option("--context <n>", "tokens that a prediction sees at most; default: the model's context", whole(1))
    .option(
      "--stride <n>",
      "tokens that each window scores; default: the context. Fewer see more context and take longer",
      whole(1),
    )
    .option("--field <name>", "the field of a JSON line that holds the text")
    .option("--separator <text>", "what is between documents of a text file");

/** Options of evaluations on labelled texts. */
const withLabels = (command: Command) =>
  command
    .option("--text <column...>", "the column of the text, or several; default: a usual name such as text")
    .option("--label <column...>", "the column of the label, or several of 0 and 1; default: a usual name")
    .choice("--format <name>", "how the files hold rows; default: as their names and content say", [
      "csv",
      "tsv",
      "jsonl",
      "json",
      "parquet",
      "label-first",
      "fasttext",
    ]);

function addPerplexity(group: Command): void {
  withWindows(withModel(group.command("perplexity").argument("<model>", modelArgument)))
    .description(
      "how well a model predicts texts: bits per byte, and perplexity per token, word and byte; of a masked language model pseudo-perplexity",
    )
    .requiredOption("--data <path...>", "text files, JSON Lines or folders of them")
    .examples(
      "kiln eval perplexity runs/demo/model --data held-out.txt",
      "kiln eval perplexity runs/demo/model --data held-out.jsonl --stride 128 --out report",
    )
    .action(async (given: string, flags: PerplexityFlags & OutputFlags) => {
      const [path] = await opened(given);
      const { evaluatePerplexity } = await import("./perplexity.ts");
      const { isEncoderConfig, readModelConfig } = await import("../../models/architectures.ts");
      const { fromPretrained, loadModel } = await import("../../models/formats/hf_directory.ts");
      const isEncoder = isEncoderConfig(await readModelConfig(path));
      const { dtype } = flags;
      const loaded = isEncoder
        ? (fromPretrained(path, dtype && { dtype }) as Promise<LoadedModel<Encoder>>)
        : loadModel(path, dtype);
      await finish(await evaluatePerplexity(await loaded, given, flags), flags);
    });
}

function addText(group: Command): void {
  withOutput(group.command("text"))
    .description(
      "BLEU and chrF (as sacrebleu) and ROUGE (as rouge_score) of texts against references, and how varied they are (distinct-n)",
    )
    .requiredOption("--hypotheses <file>", "the texts to score, one a line")
    .requiredOption(
      "--references <file...>",
      "what they should say, one a line; several files are alternatives",
    )
    .choice("--tokenize <name>", "how BLEU finds words", ["13a", "none", "intl", "char"], "13a")
    .option("--lowercase", "BLEU and chrF ignore case (ROUGE always does)")
    .option("--stemmed", "ROUGE compares stems, as rouge_score with use_stemmer")
    .examples("kiln eval text --hypotheses answers.txt --references right.txt --json")
    .action(async (flags: TextFlags & OutputFlags) => {
      const { evaluateText } = await import("./text.ts");
      await finish(await evaluateText(flags), flags);
    });
}

function addClassify(group: Command): void {
  withLabels(withModel(group.command("classify").argument("<model>", modelArgument)))
    .description("accuracy, F1, MCC, calibration and confusion matrix of a classifier on labelled texts")
    .requiredOption("--data <file...>", "CSV, TSV, JSON Lines, JSON or Parquet files with texts and labels")
    .examples("kiln eval classify runs/mood/model --data test.csv --text review --label mood --out report")
    .action(async (given: string, flags: ClassifyFlags & OutputFlags) => {
      const [path] = await opened(given);
      const { fromPretrained } = await import("../../models/formats/hf_directory.ts");
      const { evaluateClassify } = await import("./classify.ts");
      const { dtype } = flags;
      const loaded = await fromPretrained(path, dtype && { dtype });
      await finish(await evaluateClassify(loaded, given, { ...flags, say }), flags);
    });
}

function addChoice(group: Command): void {
  withModel(group.command("choice").argument("<model>", modelArgument))
    .description("multiple choice by likelihood: acc, acc_norm (per character) and acc_bytes, as lm-eval")
    .requiredOption(
      "--data <file...>",
      "JSON Lines with context, choices (a list) and answer (index or text)",
    )
    .examples("kiln eval choice runs/demo/model --data questions.jsonl")
    .action(async (given: string, flags: { data: string[]; speed?: boolean } & OutputFlags) => {
      const { evaluateChoice } = await import("./choice.ts");
      await finish(await evaluateChoice(await decoder(given, flags.dtype), given, flags), flags);
    });
}

/** Numbers such as 1,10,100. */
const counts = (text: string) =>
  text.split(",").map((each) => {
    if (/^[1-9]\d*$/.test(each.trim())) return Number(each);
    throw new InvalidArgumentError("expected whole numbers such as 1,10.");
  });

function addCode(group: Command, makeGenerator: () => Promise<MakeGenerator>): void {
  withModel(group.command("code").argument("[model]", modelArgument))
    .description("pass@k: the share of programming problems that a model's programs solve, run contained")
    .requiredOption(
      "--data <file...>",
      "problems as HumanEval's (HumanEval.jsonl.gz) or MBPP's (sanitized-mbpp.json)",
    )
    .option("--completions <file>", "in place of a model: JSON Lines with task_id and completion", nonEmpty)
    .option("--k <n,n>", "the k of pass@k; default: 1", counts)
    .option("--samples <n>", "completions of each problem; default: the largest k", whole(1))
    .option(
      "--temperature <t>",
      "default: 0.8, and 0 for one sample a problem",
      decimal("a number, 0 or more", (t) => t >= 0),
    )
    .option(
      "--top-p <p>",
      "default: 1",
      decimal("a number above 0, up to 1", (p) => p > 0 && p <= 1),
    )
    .option("--max-tokens <n>", "the longest completion; default: 512", whole(1))
    .option("--seed <n>", "of the completions; default: 0", whole(0))
    .option(
      "--timeout <seconds>",
      "of a program; default: 3",
      decimal("a number above 0", (s) => s > 0),
    )
    .choice("--language <name>", "of problems without a field language; default: python", [
      "python",
      "javascript",
    ])
    .choice("--tier <name>", "how programs are contained; default: the first of these that works", [
      "namespaces",
      "interpreter",
      "wasm",
    ])
    .examples(
      "kiln eval code runs/coder/model --data HumanEval.jsonl.gz --k 1,10 --samples 20 --out report",
      "kiln eval code --completions samples.jsonl --data HumanEval.jsonl.gz",
      "kiln eval code runs/coder/model --data problems.jsonl --language javascript",
    )
    .action(async (given: string | undefined, flags: CodeFlags & OutputFlags) => {
      if ((given === undefined) === (flags.completions === undefined))
        throw usageError("name a model, or a file of --completions, and not both");
      const { evaluateCode } = await import("./code.ts");
      await untilInterrupted("\nstopping; once more to stop at once", async (signal) => {
        if (given === undefined) return finish(await evaluateCode({ ...flags, say, signal }), flags);
        const { model, tokenizer } = await decoder(given, flags.dtype);
        const generator = (await makeGenerator())(model, tokenizer);
        const report = await evaluateCode(
          { ...flags, say, signal },
          { name: given, model, tokenizer, generator },
        );
        await finish(report, flags);
      });
    });
}

function addChat(group: Command, makeGenerator: () => Promise<MakeGenerator>): void {
  withModel(group.command("chat").argument("<model>", modelArgument))
    .description("whether a model answers in its chat template and stops by itself, and how its answers are")
    .requiredOption(
      "--data <file...>",
      "conversations as kiln train sft reads them; their last reply is asked for",
    )
    .option(
      "--before <model>",
      "measure this model too, such as the one before fine-tuning, and test the difference",
    )
    .option("--limit <n>", "conversations at most, the first of the data", whole(1))
    .option("--max-tokens <n>", "tokens of an answer at most", whole(1), 256)
    .option("--temperature <x>", "0 takes the likeliest token each time", temperature, 0)
    .option("--seed <n>", "of the answers and the resamples", whole(0), 0)
    .examples(
      "kiln eval chat runs/chat/model --data held-out.jsonl",
      "kiln eval chat runs/chat/model --data held-out.jsonl --before runs/demo/model --limit 100 --out report",
    )
    .action(async (given: string, flags: ChatFlags & OutputFlags & { before?: string }) => {
      const names = [given, ...(flags.before === undefined ? [] : [flags.before])];
      const [model, before = null] = (await opened(...names)).map((path, i) => ({ name: names[i], path }));
      const { evaluateChat } = await import("./chat.ts");
      const { ProgressLine } = await import("../../core/platform/progress_line.ts");
      const tools = { makeGenerator: await makeGenerator(), progress: new ProgressLine() };
      await finish(await evaluateChat(model, before, flags, tools), flags);
    });
}

function addCompare(group: Command): void {
  withLabels(
    withWindows(
      withOutput(group.command("compare").argument("<a>", modelArgument).argument("<b>", modelArgument)),
    ),
  )
    .description("whether model B differs from A on the same data: paired bootstrap and McNemar's test")
    .choice("--task <name>", "what to measure", ["perplexity", "choice", "classify"], "perplexity")
    .requiredOption("--data <path...>", "what that evaluation takes")
    .choice("--dtype <type>", "type of weights and activations", ["f32", "f16"])
    .option("--seed <n>", "of the resamples", whole(0), 0)
    .examples(
      "kiln eval compare runs/a/model runs/b/model --data held-out.jsonl",
      "kiln eval compare runs/a/model runs/b/model --task choice --data questions.jsonl",
    )
    .action(async (a: string, b: string, flags: CompareFlags & OutputFlags) => {
      const [pathA, pathB] = await opened(a, b);
      const { compareModels } = await import("./compare.ts");
      await finish(await compareModels([a, b], [pathA, pathB], flags), flags);
    });
}

const withTexts = (command: Command) =>
  withOutput(command)
    .choice("--dtype <type>", "type of weights and activations", ["f32", "f16"])
    .requiredOption("--data <path...>", "text files, JSON Lines or folders of them")
    .option("--field <name>", "the field of a JSON line that holds the text");

function addBias(group: Command): void {
  withTexts(group.command("bias").argument("<model>", modelArgument))
    .description("whether a model says something else of a text where another group of people is named in it")
    .requiredOption("--terms <file>", "YAML or JSON with sets of groups and their words, in one order")
    .option("--label <name>", "of a classifier, the label whose probability is compared; default: its last")
    .examples("kiln eval bias runs/demo/model --data texts.jsonl --terms docs/configs/identity_terms.yaml")
    .action(async (given: string, flags: BiasFlags & OutputFlags) => {
      const [path] = await opened(given);
      const { fromPretrained } = await import("../../models/formats/hf_directory.ts");
      const { evaluateBias } = await import("./bias.ts");
      const { dtype } = flags;
      const loaded = await fromPretrained(path, dtype && { dtype });
      await finish(await evaluateBias(loaded, given, flags), flags);
    });
}

function addCoherence(group: Command): void {
  withTexts(group.command("coherence").argument("<model>", modelArgument))
    .description(
      "what the context is worth: a text's last sentence after it, and after a shuffled or foreign one",
    )
    .option("--seed <n>", "of the shuffling", whole(0), 0)
    .examples("kiln eval coherence runs/demo/model --data held-out.jsonl")
    .action(async (given: string, flags: CoherenceFlags & OutputFlags) => {
      const { evaluateCoherence } = await import("./coherence.ts");
      await finish(await evaluateCoherence(await decoder(given, flags.dtype), given, flags), flags);
    });
}
