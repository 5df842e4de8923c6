import { Argument, type Command, Option } from "commander";
import { examples, whole } from "../core/platform/command_line.ts";

const openOnce = async () => (await import("../kernels/index.ts")).openOnce();

/** `kiln doctor`, `verify`, `bench` and `profile`. Everything is imported when it is needed: `--help` is instant. */
export function addBenchCommands(program: Command): void {
  addDoctor(program);
  addVerify(program);
  addBench(program);
  addProfile(program);
}

function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("show the adapter, its features and limits, and check that it computes right and how fast")
    .option("--json", "one JSON object instead of text")
    .addHelpText("after", examples("kiln doctor", "KILN_ADAPTER=swiftshader kiln doctor --json"))
    .action(async (options: { json?: boolean }) => {
      const { doctor, renderDoctor } = await import("./doctor.ts");
      const { ok, report } = await doctor();
      process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : `${renderDoctor(report)}\n`);
      process.exitCode = ok ? 0 : 1;
    });
}

function addVerify(program: Command): void {
  program
    .command("verify")
    .argument(
      "<folder>",
      "fixtures laid out like the golden reference: ops.json, optim.json, models/, curves/ …",
    )
    .description("run golden fixtures on this machine's adapter and print the largest error of each case")
    .option("--filter <text>", "only cases whose name holds this text")
    .option("--json", "one JSON object per line")
    .addHelpText(
      "after",
      examples("kiln verify tests/fixtures/golden", "kiln verify tests/fixtures/golden --filter attention"),
    )
    .action(async (folder: string, options: { filter?: string; json?: boolean }) => {
      await openOnce();
      const { verify } = await import("./verify/index.ts");
      const { failed } = await verify(folder, {
        ...options,
        write: (line) => void process.stdout.write(`${line}\n`),
      });
      process.exitCode = failed > 0 ? 1 : 0;
    });
}

function addBench(program: Command): void {
  program
    .command("bench")
    .description(
      "measure kernels, a training step and decoding against this adapter's own limits and against peers",
    )
    .option("--filter <text>", "only rows whose name holds this text")
    .addOption(
      new Option("--rows <set>", "which rows; by the kind of adapter when absent").choices(["small", "gpu"]),
    )
    .option("--no-peers", "time kiln alone")
    .option("--quick", "small and short: that it runs, not how fast")
    .option("--record", "append the figures to bench/history")
    .option("--json", "one JSON object instead of a table")
    .option("--gpu-table", "the GPU table: bounds checks on and off, beside PyTorch, against the bars")
    .option("--out <folder>", "where --gpu-table writes Markdown and JSON", "runs/gpu_table")
    .option("--budget <seconds>", "when --gpu-table stops; it measures what matters first", whole(1), 470)
    .option("--torch <file>", "PyTorch's ruler, or its lines in a .jsonl file", ".gpu/torch_bench.py")
    .option("--page [file]", "write the history and the roofline as one HTML page")
    .addHelpText("after", examples("npm run bench", "KILN_UNCHECKED=1 kiln bench --filter matmul"))
    .action(async (options: import("./run_command.ts").BenchFlags) => {
      const { runBench } = await import("./run_command.ts");
      await runBench(options);
    });
}

function addProfile(program: Command): void {
  program
    .command("profile")
    .addArgument(new Argument("<work>", "what to look into").choices(["train", "decode"]))
    .description("show where the time of a training or decode step goes, kernel by kernel")
    .option("--model <folder>", "model folder in Hugging Face layout; default: an untrained TinyLLM")
    .option("--trace <file>", "also write a Chrome trace (chrome://tracing, Perfetto)")
    .option("--shapes", "a line for each set of shapes instead of each kernel")
    .option("--json", "one JSON object instead of a table")
    .addHelpText("after", examples("kiln profile train", "kiln profile decode --trace decode.json"))
    .action(async (work: "train" | "decode", options: import("./profile.ts").ProfileOptions) => {
      const { profile } = await import("./profile.ts");
      await profile(await openOnce(), work, options);
    });
}
