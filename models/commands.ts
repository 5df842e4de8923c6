import type { Command } from "commander";
import { examples, say, untilInterrupted, whole } from "../core/platform/command_line.ts";

/** `kiln pull`. Everything is imported when it is needed: `--help` is instant. */
export function addModelCommands(program: Command): void {
  program
    .command("pull")
    .argument("<name>", "org/name, or org/name@revision: a branch, a tag or a commit hash")
    .description("fetch a model from the Hugging Face hub into its cache, or what of it is missing")
    .option("--include <pattern...>", "the files to fetch, instead of those that kiln needs; * is any text")
    .option("--max-gib <n>", "refuse to fetch more than this", whole(1), 50)
    .option("--json", "print the result as one JSON object")
    .addHelpText(
      "after",
      examples(
        "kiln pull openai-community/gpt2",
        "kiln pull openai-community/gpt2@main --json",
        'kiln pull org/name-GGUF --include "*Q8_0.gguf"',
        "kiln sample openai-community/gpt2",
      ),
    )
    .addHelpText(
      "after",
      "\nEnvironment, as huggingface_hub has it: HF_TOKEN, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE=1, HF_HUB_CACHE or HF_HOME\n",
    )
    .action(async (name: string, flags: { include?: string[]; maxGib: number; json?: boolean }) => {
      const { pullModel } = await import("./hub/pull.ts");
      const { ProgressLine } = await import("../core/platform/progress_line.ts");
      const result = await untilInterrupted("\nstopping; once more to stop at once", (signal) =>
        pullModel(name, {
          ...(flags.include && { include: flags.include }),
          maxBytes: flags.maxGib * 2 ** 30,
          progress: new ProgressLine(),
          say,
          signal,
        }),
      );
      process.stdout.write(`${flags.json ? JSON.stringify(result) : result.folder}\n`);
    });
}
