import { type Command, Option } from "commander";
import { examples, nonEmpty, say, whole } from "../../core/platform/command_line.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import type { MakeGenerator } from "../recipe.ts";
import type { EvaluationReport } from "../report/evaluation.ts";
import type { ClassifyFlags } from "./classify.ts";
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
export function addEvalCommands(program: Command, _makeGenerator: () => Promise<MakeGenerator>): void {
  const group = program.command("eval").description("measure a model, or texts that one wrote");
  addPerplexity(group);
  addText(group);
  addClassify(group);
  addChoice(group);
  addCompare(group);
}

const modelArgument = "model folder, GGUF file, or org/name after kiln pull";

const withOutput = (command: Command) =>
  command
    .option("--json", "print the result as one JSON object instead of Markdown")
    .option("--out <folder>", "also write report.json, report.md and report.html here", nonEmpty);

/** Options of evaluations that run a model. */
const withModel = (command: Command) =>
  withOutput(command)
    .addOption(new Option("--dtype <type>", "type of weights and activations").choices(["f32", "f16"]))
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
    .addOption(
      new Option(
        "--format <name>",
        "how the files hold rows; default: as their names and content say",
      ).choices(["csv", "tsv", "jsonl", "json", "parquet", "label-first", "fasttext"]),
    );

function addPerplexity(group: Command): void {
  withWindows(withModel(group.command("perplexity").argument("<model>", modelArgument)))
    .description("how well a model predicts texts: bits per byte, and perplexity per token, word and byte")
    .requiredOption("--data <path...>", "text files, JSON Lines or folders of them")
    .addHelpText(
      "after",
      examples(
        "kiln eval perplexity runs/demo/model --data held-out.txt",
        "kiln eval perplexity runs/demo/model --data held-out.jsonl --stride 128 --out report",
      ),
    )
    .action(async (given: string, flags: PerplexityFlags & OutputFlags) => {
      const { evaluatePerplexity } = await import("./perplexity.ts");
      await finish(await evaluatePerplexity(await decoder(given, flags.dtype), given, flags), flags);
    });
}

function addText(group: Command): void {
  withOutput(group.command("text"))
    .description("BLEU and chrF (as sacrebleu) and ROUGE (as rouge_score) of texts against references")
    .requiredOption("--hypotheses <file>", "the texts to score, one a line")
    .requiredOption(
      "--references <file...>",
      "what they should say, one a line; several files are alternatives",
    )
    .addOption(
      new Option("--tokenize <name>", "how BLEU finds words")
        .choices(["13a", "none", "intl", "char"])
        .default("13a"),
    )
    .option("--lowercase", "BLEU and chrF ignore case (ROUGE always does)")
    .option("--stemmed", "ROUGE compares stems, as rouge_score with use_stemmer")
    .addHelpText("after", examples("kiln eval text --hypotheses answers.txt --references right.txt --json"))
    .action(async (flags: TextFlags & OutputFlags) => {
      const { evaluateText } = await import("./text.ts");
      await finish(await evaluateText(flags), flags);
    });
}

function addClassify(group: Command): void {
  withLabels(withModel(group.command("classify").argument("<model>", modelArgument)))
    .description("accuracy, F1, MCC, calibration and confusion matrix of a classifier on labelled texts")
    .requiredOption("--data <file...>", "CSV, TSV, JSON Lines, JSON or Parquet files with texts and labels")
    .addHelpText(
      "after",
      examples("kiln eval classify runs/mood/model --data test.csv --text review --label mood --out report"),
    )
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
    .addHelpText("after", examples("kiln eval choice runs/demo/model --data questions.jsonl"))
    .action(async (given: string, flags: { data: string[]; speed?: boolean } & OutputFlags) => {
      const { evaluateChoice } = await import("./choice.ts");
      await finish(await evaluateChoice(await decoder(given, flags.dtype), given, flags), flags);
    });
}

function addCompare(group: Command): void {
  withLabels(
    withWindows(
      withOutput(group.command("compare").argument("<a>", modelArgument).argument("<b>", modelArgument)),
    ),
  )
    .description("whether model B differs from A on the same data: paired bootstrap and McNemar's test")
    .addOption(
      new Option("--task <name>", "what to measure")
        .choices(["perplexity", "choice", "classify"])
        .default("perplexity"),
    )
    .requiredOption("--data <path...>", "what that evaluation takes")
    .addOption(new Option("--dtype <type>", "type of weights and activations").choices(["f32", "f16"]))
    .option("--seed <n>", "of the resamples", whole(0), 0)
    .addHelpText(
      "after",
      examples(
        "kiln eval compare runs/a/model runs/b/model --data held-out.jsonl",
        "kiln eval compare runs/a/model runs/b/model --task choice --data questions.jsonl",
      ),
    )
    .action(async (a: string, b: string, flags: CompareFlags & OutputFlags) => {
      const [pathA, pathB] = await opened(a, b);
      const { compareModels } = await import("./compare.ts");
      await finish(await compareModels([a, b], [pathA, pathB], flags), flags);
    });
}
