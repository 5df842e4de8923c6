import { Argument, Option } from "commander";
import { type Command, decimal, whole } from "../core/platform/command_line.ts";

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
    .examples("kiln doctor", "KILN_ADAPTER=swiftshader kiln doctor --json")
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
    .examples("kiln verify tests/fixtures/golden", "kiln verify tests/fixtures/golden --filter attention")
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
  const bench = program.command("bench").enablePositionalOptions();
  addBenchServe(bench);
  addBenchApps(bench);
  addBenchRag(bench);
  bench
    .description(
      "measure kernels, a training step and decoding against this adapter's own limits and against peers",
    )
    .option("--filter <text>", "only rows whose name holds this text")
    .choice("--rows <set>", "which rows; by the kind of adapter when absent", ["small", "gpu"])
    .option("--no-peers", "time kiln alone")
    .option("--quick", "small and short: that it runs, not how fast")
    .option("--record", "append the figures to bench/history")
    .option("--json", "one JSON object instead of a table")
    .option("--gpu-table", "the GPU table: bounds checks on and off, beside PyTorch, against the bars")
    .option("--out <folder>", "where --gpu-table writes Markdown and JSON", "runs/gpu_table")
    .option("--budget <seconds>", "when --gpu-table stops; it measures what matters first", whole(1), 470)
    .option("--torch <file>", "PyTorch's ruler, or its lines in a .jsonl file", ".gpu/torch_bench.py")
    .option("--page [file]", "write the history and the roofline as one HTML page")
    .examples("npm run bench", "KILN_UNCHECKED=1 kiln bench --filter matmul")
    .action(async (options: import("./run_command.ts").BenchFlags) => {
      const { runBench } = await import("./run_command.ts");
      await runBench(options);
    });
}

const each = (one: (text: string) => number) => (text: string) => text.split(",").map(one);
const rates = each(decimal("rates above 0, such as 1,2,4", (rate) => rate > 0));
const counts = each(whole(1, 10_000));

function addBenchServe(bench: Command): void {
  bench
    .command("serve")
    .argument("<url>", "an OpenAI-compatible server, such as http://127.0.0.1:8000")
    .description("put a load on a server and measure its latency and throughput, by streams")
    .option("--model <name>", "default: the first of /v1/models")
    .option("--chat", "ask /v1/chat/completions instead of /v1/completions")
    .option("--rate <list>", "requests a second at random times (Poisson), one run each: 1,2,4", rates)
    .option("--concurrency <list>", "requests at once, one run each: 1,8,16 (8 without --rate)", counts)
    .option("--requests <n>", "of each run", whole(1), 100)
    .option("--warm-up <n>", "requests before the first run, which do not count", whole(0), 4)
    .option("--prompt-tokens <lengths>", "128, uniform:16-128, or lognormal:128,0.5 (median, sigma)", "64")
    .option("--output-tokens <lengths>", "likewise", "64")
    .option("--dataset <file>", 'prompts instead of random ones: a text or {"prompt"} a line')
    .option(
      "--vocab <n>",
      "random prompts are token ids below this; with --chat they are words",
      whole(8),
      250,
    )
    .option("--seed <n>", "the same seed gives the same requests at the same times", whole(0), 0)
    .option(
      "--temperature <x>",
      "of each request",
      decimal("a number of 0 or more", (x) => x >= 0),
      0,
    )
    .option("--no-ignore-eos", "let answers end by themselves; for servers that do not know ignore_eos")
    .addOption(new Option("--api-key <key>", "sent as a bearer token").env("KILN_API_KEY"))
    .option("--timeout <seconds>", "of each request", whole(1), 600)
    .option("--goodput <goals...>", "milliseconds that count as good: ttft:200 itl:50 e2e:2000")
    .option("--json", "one JSON object instead of a table")
    .option("--svg <file>", "draw latency against rate")
    .examples(
      "kiln bench serve http://127.0.0.1:8000 --concurrency 1,4,16",
      "kiln bench serve http://127.0.0.1:8000 --rate 1,2,4,8 --goodput ttft:200 itl:50 --svg load.svg",
      "kiln bench serve http://127.0.0.1:8080 --chat --prompt-tokens lognormal:64,0.6 --json",
    )
    .addHelpText("after", "\nThe exit code is 1 when a request failed.\n")
    .action(async (url: string, flags: import("./serve/command.ts").LoadFlags) => {
      const { benchServer } = await import("./serve/command.ts");
      process.exitCode = (await benchServer(url, flags)) ? 0 : 1;
    });
}

function addBenchApps(bench: Command): void {
  bench
    .command("apps")
    .description(
      "time what conversations and their data take, beside the figures of the system that they stand in for",
    )
    .option("--filter <text>", "only steps whose name holds this text", "")
    .option("--json", "one JSON object instead of a table")
    .action(async ({ filter, json }: { filter: string; json?: boolean }) => {
      const { appResults, appTable } = await import("./apps/index.ts");
      const results = await appResults(filter);
      process.stdout.write(`${json ? JSON.stringify({ results }) : appTable(results)}\n`);
    });
}

function addBenchRag(bench: Command): void {
  bench
    .command("rag")
    .argument("[model]", "a folder of an encoder that makes vectors, measured beside the words")
    .description("how much each way to search finds in Cranfield and XQuAD")
    .option("--sets <folder>", "of cranfield/ and xquad.en.json.gz", "../shared/data/retrieval")
    .option("--pairs", "print first sentences of their texts and the rest, to train an encoder on, instead")
    .option("--json", "one JSON object instead of a table")
    .examples("kiln bench rag", "kiln bench rag runs/embed/model")
    .action(async (model: string | undefined, flags: { sets: string; pairs?: boolean; json?: boolean }) => {
      const { ragPairs, ragRows, ragTable } = await import("./rag.ts");
      if (flags.pairs) {
        for (const pair of ragPairs(flags.sets)) process.stdout.write(`${JSON.stringify(pair)}\n`);
        return;
      }
      const rows = await ragRows(flags.sets, model);
      process.stdout.write(`${flags.json ? JSON.stringify({ rows }) : ragTable(rows)}\n`);
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
    .examples("kiln profile train", "kiln profile decode --trace decode.json")
    .action(async (work: "train" | "decode", options: import("./profile.ts").ProfileOptions) => {
      const { profile } = await import("./profile.ts");
      await profile(await openOnce(), work, options);
    });
}
