import { addBenchCommands } from "./bench/commands.ts";
import { Command, port, runCommand, say } from "./core/platform/command_line.ts";
import { addModelCommands } from "./models/commands.ts";
import { addUserCommands } from "./serve/app/commands.ts";
import { addRouteCommands } from "./serve/app/ensemble/commands.ts";
import { addExperimentCommands } from "./serve/app/experiments/commands.ts";
import { addExplainCommand } from "./serve/app/explain/commands.ts";
import { addJobCommands } from "./serve/app/jobs/commands.ts";
import { addProviderCommands } from "./serve/app/providers/commands.ts";
import { addServeCommands } from "./serve/commands.ts";
import { addStoreCommands } from "./serve/store/commands.ts";
import { addTrainCommands, runPretraining, type Writers } from "./train/commands.ts";

const openOnce = async () => (await import("./kernels/index.ts")).openOnce();

/** The `kiln` command: each room's commands, and those that need two rooms. */
const program = new Command("kiln")
  .description("Train, sample and serve small language models on any GPU, in TypeScript.")
  .configureHelp({ minWidthToWrap: 30 }) // commander's 40 would leave the list of commands unwrapped at 80 columns
  .examples("kiln demo", "kiln train pretrain --data FILE --out runs/first", "kiln sample runs/first")
  .showHelpAfterError("(add --help for all options)")
  .helpCommand(true)
  // What stands after the name of a command is that command's, also where the one before has such an option.
  .enablePositionalOptions()
  .exitOverride();

/** Texts of a model in training or under evaluation are written by the server's generator. */
const writers: Writers = {
  makeSampler: async () => (await import("./serve/text/text_generator.ts")).samplerOf,
  makeGenerator: async () => {
    const { TextGenerator } = await import("./serve/text/text_generator.ts");
    return (model, tokenizer) => new TextGenerator(model, tokenizer);
  },
};

addTrainCommands(program, writers, async (address, what) =>
  (await import("./serve/app/collected.ts")).readStore(address, what),
);
addServeCommands(program);
addExplainCommand(program);
addProviderCommands(program);
addExperimentCommands(program);
addRouteCommands(program);
addStoreCommands(program);
addUserCommands(program);
addJobCommands(program);
addModelCommands(program);
addBenchCommands(program);

program
  .command("demo")
  .description("what `npm start` runs: train a TinyLLM on built-in stories, show it, serve it")
  .option("--smoke", "toy length, one request to the server, then exit")
  .option("--out <folder>", "folder of the run", "runs/demo")
  .option("--port <n>", "0 takes a free one", port, 8000)
  .option("--fresh", "train again although the folder holds a finished model")
  .action(async (flags: { smoke?: boolean; out: string; port: number; fresh?: boolean }) => {
    const address = { port: flags.smoke ? 0 : flags.port, host: "127.0.0.1" };
    const { assertCanListen } = await import("./serve/listening.ts");
    await assertCanListen(address);
    const { demo } = await import("./train/demo.ts");
    const { describe } = await import("./core/platform/adapter.ts");
    say(describe((await openOnce()).description));
    const { modelDir } = await demo({
      ...flags,
      say,
      pretrain: (config) => runPretraining(config, writers),
    });
    const { planServing, serveModels } = await import("./serve/serve_model.ts");
    await serveModels(await planServing([modelDir], address), { once: flags.smoke });
  });

await runCommand(program);
