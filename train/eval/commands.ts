import { type Command, Option } from "commander";
import { examples, nonEmpty, say, whole } from "../../core/platform/command_line.ts";
import type { LoadedModel } from "../../models/formats/hf_directory.ts";
import type { EvaluationReport } from "../report/evaluation.ts";
import type { PerplexityFlags } from "./perplexity.ts";

/** Flags of every evaluation. */
interface OutputFlags {
  json?: boolean;
  out?: string;
  dtype?: "f32" | "f16";
}

/** `kiln eval …`. Everything is imported when it is needed: `--help` is instant. */
export function addEvalCommands(program: Command): void {
  const group = program.command("eval").description("measure a model, or texts that one wrote");
  addPerplexity(group);
}

const modelArgument = "model folder, GGUF file, or org/name after kiln pull";

function withOutput(command: Command): Command {
  return command
    .option("--json", "print the result as one JSON object instead of Markdown")
    .option("--out <folder>", "also write report.json, report.md and report.html here", nonEmpty);
}

/** Options of evaluations that run a model. */
const withModel = (command: Command) =>
  withOutput(command)
    .addOption(new Option("--dtype <type>", "type of weights and activations").choices(["f32", "f16"]))
    .option("--speed", "report tokens a second, milliseconds a pass, bytes on the device and parameters");

/** Prints a report, and writes it where `--out` says. */
async function finish(report: EvaluationReport, { json, out }: OutputFlags): Promise<void> {
  const { reportMarkdown, writeReport } = await import("../report/evaluation.ts");
  if (out !== undefined) await writeReport(out, report);
  process.stdout.write(json ? `${JSON.stringify(report.values)}\n` : reportMarkdown(report));
  if (out !== undefined) say(`report: ${out}/report.html`);
}

/** Opens the device and loads a model that writes text. */
async function decoder(given: string, dtype?: "f32" | "f16"): Promise<LoadedModel> {
  const { resolveModel } = await import("../../models/hub/resolve.ts");
  const path = await resolveModel(given);
  await (await import("../../kernels/index.ts")).openOnce();
  return (await import("../../models/formats/hf_directory.ts")).loadModel(path, dtype);
}

function addPerplexity(group: Command): void {
  withModel(group.command("perplexity").argument("<model>", modelArgument))
    .description("how well a model predicts texts: bits per byte, and perplexity per token, word and byte")
    .requiredOption("--data <path...>", "text files, JSON Lines or folders of them")
    .option("--context <n>", "tokens that a prediction sees at most; default: the model's context", whole(1))
    .option(
      "--stride <n>",
      "tokens that each window scores; default: the context. Fewer see more context and take longer",
      whole(1),
    )
    .option("--field <name>", "the field of a JSON line that holds the text")
    .option("--separator <text>", "what is between documents of a text file")
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
