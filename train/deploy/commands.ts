import { Option } from "commander";
import { type Command, nonEmpty, say, untilInterrupted } from "../../core/platform/command_line.ts";
import type { MakeGenerator } from "../recipe.ts";

interface OllamaFlags {
  name: string;
  url: string;
  dtype: "f16" | "q8_0";
  base?: string;
  json?: boolean;
}

/** `kiln deploy …`. Everything is imported when it is needed: `--help` is instant. */
export function addDeployCommands(program: Command, makeGenerator: () => Promise<MakeGenerator>): void {
  const deploy = program.command("deploy").description("give a model to another program that runs");
  deploy
    .command("ollama")
    .argument("<model>", "model folder, adapter folder, run, GGUF file, or NAME@VERSION of the registry")
    .description("give a model to an Ollama server, and check that it writes there what it writes here")
    .requiredOption("--name <name>", "what it is called there", nonEmpty)
    .addOption(
      new Option("--url <url>", "where Ollama listens")
        .env("OLLAMA_HOST")
        .argParser((text) => (text.includes("://") ? text : `http://${text}`))
        .default("http://127.0.0.1:11434"),
    )
    .choice("--dtype <type>", "type of the weights there", ["f16", "q8_0"], "f16")
    .option("--base <model>", "the model that an adapter is for; default: the one that it names", nonEmpty)
    .option("--json", "print the result as one JSON object")
    .examples(
      "kiln deploy ollama runs/chat --name storyteller",
      "kiln deploy ollama storyteller@prod --name storyteller --dtype q8_0",
      "kiln deploy ollama runs/poems/model --base storyteller@prod --name poet",
    )
    .action(async (given: string, { json, ...flags }: OllamaFlags) => {
      const { findModel } = await import("../../models/hub/resolve.ts");
      const { deployToOllama } = await import("./ollama.ts");
      const path = await findModel(given);
      await (await import("../../kernels/index.ts")).openOnce();
      const generator = await makeGenerator();
      const done = await untilInterrupted("\nstopping; once more to stop at once", (signal) =>
        deployToOllama(path, { ...flags, makeGenerator: generator, say, signal }),
      );
      if (json) process.stdout.write(`${JSON.stringify(done)}\n`);
      else {
        say(`Ollama writes what kiln writes after ${done.answers.length} prompts`);
        process.stdout.write(`ollama run ${done.name}\n`);
      }
    });
}
