import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { definedOnly } from "./core/defined_only.ts";
import type { KilnError } from "./core/errors.ts";

/**
 * The `kiln` command: parses, then calls one function. Everything is imported when it is needed, so that `--help` is
 * instant. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C with the work saved.
 */
const program = new Command("kiln")
  .description("Train, sample and serve small language models on any GPU, in TypeScript.")
  .showHelpAfterError("(add --help for all options)")
  .helpCommand(true)
  .exitOverride();

/** Parsers of option values. What they let pass is what the command can use, so that a bad value costs no loading. */
const whole =
  (low: number, high = Number.MAX_SAFE_INTEGER) =>
  (text: string) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isSafeInteger(value) && value >= low && value <= high) return value;
    const range = high === Number.MAX_SAFE_INTEGER ? `, ${low} or more` : ` from ${low} to ${high}`;
    throw new InvalidArgumentError(`expected a whole number${range}.`);
  };
const decimal =
  (expected = "a number", holds: (value: number) => boolean = () => true) =>
  (text: string) => {
    const value = Number(text);
    if (text.trim() !== "" && Number.isFinite(value) && holds(value)) return value;
    throw new InvalidArgumentError(`expected ${expected}.`);
  };
const nonEmpty = (text: string) => {
  if (text !== "") return text;
  throw new InvalidArgumentError("expected a text that is not empty.");
};
const port = whole(0, 65535);
/** Past 2^53 a number would be rounded. */
const seedNumber = (text: string) => (/^\d{16,}$/.test(text) ? BigInt(text) : whole(0)(text));
/** An option that may be given several times. */
const listOf =
  (expected: string, pattern: RegExp) =>
  (value: string, before: string[] = []) => {
    if (!pattern.test(value)) throw new InvalidArgumentError(`expected ${expected}.`);
    return [...before, value];
  };
const keys = listOf("a key of visible ASCII characters", /^[\x21-\x7e]+$/);
const hosts = listOf("a host without scheme and port, or *", /^(\*|[^\s/:@]+|\[?[\da-f:.]+\]?)$/i);
const origins = listOf(
  "an origin as browsers send it, for example https://app.example, or *",
  /^(\*|null|[a-z][a-z\d+.-]*:\/\/[^\s/A-Z]+)$/,
);
/** What a model answers in. */
const dtypeOption = () =>
  new Option(
    "--dtype <type>",
    "what weights and the cache are kept in; f16 takes half the memory, where the adapter has it",
  )
    .choices(["f32", "f16"])
    .default("f32");
const examples = (...lines: string[]) => `\nExamples:\n${lines.map((line) => `  ${line}`).join("\n")}\n`;
const say = (line: string) => process.stderr.write(`${line}\n`);

program
  .command("doctor")
  .description("show the adapter, its features and limits, and check that it computes right and how fast")
  .option("--json", "one JSON object instead of text")
  .addHelpText("after", examples("kiln doctor", "KILN_ADAPTER=swiftshader kiln doctor --json"))
  .action(async (options: { json?: boolean }) => {
    const { doctor, renderDoctor } = await import("./kernels/doctor.ts");
    const { ok, report } = await doctor();
    process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : `${renderDoctor(report)}\n`);
    process.exitCode = ok ? 0 : 1;
  });

interface PretrainFlags {
  data?: string[];
  validationData?: string[];
  out?: string;
  initFrom?: string;
  steps?: number;
  batchSize?: number;
  sequenceLength?: number;
  learningRate?: number;
  computeDtype?: string;
  vocabSize?: number;
  seed?: number;
  set: string[];
  resume?: boolean;
  resumeFrom?: string;
  json?: boolean;
}

program
  .command("train")
  .description("train a model")
  .command("pretrain")
  .argument("[config]", "YAML or JSON file of settings; flags and --set come on top of it")
  .description(
    "train a Llama (or a GPT-2) from scratch on text, JSONL, or gzip of either; without data on built-in stories",
  )
  .option("--data <path...>", "text, JSONL, gzip of either, or folders")
  .option("--validation-data <path...>", "files for the validation loss, instead of a share of the data")
  .option("--out <folder>", "folder of the run: checkpoints, logs, loss curve, model")
  .option("--init-from <folder>", "start from the weights, shape and tokenizer of this model or run")
  .option("--steps <n>", "optimizer updates", whole(1))
  .option("--batch-size <n>", "sequences of one forward pass", whole(1))
  .option("--sequence-length <n>", "tokens of one sequence", whole(2))
  .option(
    "--learning-rate <x>",
    "highest learning rate",
    decimal("a number above 0", (x) => x > 0),
  )
  .option("--compute-dtype <type>", "f32, or f16 for mixed precision (the adapter must have f16)")
  .option("--vocab-size <n>", "size of the tokenizer to train", whole(1))
  .option("--seed <n>", "decides weights, order of the data and samples", whole(0))
  .option("--set <name=value...>", "any other setting, e.g. --set train.weight_decay=0.05", [])
  .option(
    "--resume",
    "go on from the newest checkpoint of the run, with its settings and the flags given here",
  )
  .option("--resume-from <checkpoint>", "go on from an older one, e.g. step-000250")
  .option("--json", "print the result as one JSON object")
  .addHelpText(
    "after",
    examples(
      "kiln train pretrain --out runs/stories --steps 500",
      "kiln train pretrain docs/configs/tinyllm.yaml --data stories.jsonl.gz",
      "kiln train pretrain --out runs/stories --resume",
      "kiln train pretrain --out runs/stories --resume --steps 1000 --learning-rate 5e-4",
    ),
  )
  .addHelpText("after", () => `\nAll settings and their defaults: kiln settings\n`)
  .action(async (config: string | undefined, flags: PretrainFlags) => {
    const { loadPretrainConfig, parseOverrides } = await import("./train/config.ts");
    const overrides = [...parseOverrides(flags.set), ...flagOverrides(flags)];
    const settings = await loadPretrainConfig(config ?? null, overrides);
    const { describe } = await import("./core/adapter.ts");
    say(describe((await openOnce()).description));
    const result = await runPretraining(settings);
    const { model: _m, tokenizer: _t, samples, ...summary } = result;
    if (flags.json) process.stdout.write(`${JSON.stringify({ ...summary, samples })}\n`);
    else {
      const { lossText } = await import("./train/run_log.ts");
      const { modelDir, lossCurve } = summary;
      say(
        `${lossText(summary, 4)}\nmodel: ${modelDir}\nloss curve: ${lossCurve}\ntry: kiln sample ${modelDir}`,
      );
    }
  });

program
  .command("settings")
  .description("list every setting of kiln train pretrain with its default")
  .action(async () => {
    const { describeSettings } = await import("./train/config.ts");
    for (const { name, default: value, description } of describeSettings()) {
      process.stdout.write(`${name.padEnd(38)} ${value.padEnd(24)} ${description}\n`);
    }
  });

interface SampleFlags {
  prompt: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number | bigint;
  dtype: "f32" | "f16";
}

program
  .command("sample")
  .argument("<model>", "model folder in Hugging Face layout, e.g. runs/demo/model")
  .description("continue a prompt, streaming the text")
  .option("--prompt <text>", "what to continue", "Once upon a time")
  .option("--max-tokens <n>", "tokens to write at most", whole(0), 200)
  .option(
    "--temperature <x>",
    "0 takes the likeliest token each time",
    decimal("a number from 0 to 2", (x) => x >= 0 && x <= 2),
    0.8,
  )
  .option("--top-k <n>", "keep the k likeliest tokens", whole(0))
  .option(
    "--top-p <x>",
    "keep the likeliest tokens up to this probability together",
    decimal("a number above 0, up to 1", (x) => x > 0 && x <= 1),
  )
  .option(
    "--min-p <x>",
    "keep tokens at least this share as likely as the likeliest",
    decimal("a number from 0 to 1", (x) => x >= 0 && x <= 1),
  )
  .option("--seed <n>", "the same seed gives the same text", seedNumber)
  .addOption(dtypeOption())
  .addHelpText(
    "after",
    examples(
      'kiln sample runs/demo/model --prompt "Once upon a time"',
      'kiln sample runs/demo/model --prompt "" --temperature 0 --max-tokens 50',
    ),
  )
  .action(async (path: string, flags: SampleFlags) => {
    await (await import("./serve/quickest.ts")).takeQuickest(path, flags.dtype, { measure: false });
    await openOnce();
    const { loadModel } = await import("./models/checkpoint.ts");
    const { TextGenerator } = await import("./serve/generate.ts");
    const { model, tokenizer } = await loadModel(path, flags.dtype);
    const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
    const { maxTokens: max_tokens, topK, topP, minP, temperature, seed } = flags;
    const options = { max_tokens, temperature, top_k: topK, top_p: topP, min_p: minP, seed };
    // The prompt comes with the first piece: a refusal stands alone.
    let before = flags.prompt;
    for await (const text of generator.stream(flags.prompt, definedOnly(options))) {
      process.stdout.write(before + text);
      before = "";
    }
    process.stdout.write(`${before}\n`);
  });

program
  .command("serve")
  .argument("<model>", "model folder in Hugging Face layout")
  .description("serve a model to OpenAI clients: /v1/completions, /v1/models, /health")
  .option("--port <n>", "0 takes a free one", port, 8000)
  .option("--host <address>", "address to listen on", nonEmpty, "127.0.0.1")
  .addOption(
    new Option(
      "--api-key <key>",
      "clients must send this key, or one of several; with several, each gets an even share",
    )
      .env("KILN_API_KEY")
      .argParser(keys),
  )
  .option(
    "--priority-key <key>",
    "a key that may also set `priority` (lower runs first); several are allowed",
    keys,
  )
  .option("--served-model-name <name>", "the name that clients use; default: the folder's name", nonEmpty)
  .option("--max-model-len <n>", "longest prompt plus answer, in tokens", whole(1))
  .option("--max-num-seqs <n>", "answers written at once", whole(1, 1024), 64)
  .option("--max-num-batched-tokens <n>", "tokens computed in one step", whole(1, 65536), 512)
  .option("--cache-mib <n>", "room for keys and values (default 256)", whole(1))
  .option("--strict", "refuse request fields that nobody knows")
  .option(
    "--allowed-host <name>",
    "a name besides localhost to answer to without a key, or *; several are allowed",
    hosts,
  )
  .option(
    "--allowed-origin <origin>",
    "an origin whose pages may ask without a key, besides local ones, or *; several are allowed",
    origins,
  )
  .addOption(dtypeOption())
  .addHelpText("after", examples("kiln serve runs/demo/model --port 8000"))
  .action(async (path: string, flags: import("./serve/command.ts").ServeFlags) => {
    const { checkServing, serveModel } = await import("./serve/command.ts");
    await checkServing(path, flags);
    const { takeQuickest } = await import("./serve/quickest.ts");
    const taken = await takeQuickest(path, flags.dtype ?? "f32", { say });
    if (taken) say(taken);
    await openOnce();
    const { loadModel } = await import("./models/checkpoint.ts");
    const loaded = await loadModel(path, flags.dtype);
    await serveModel(loaded, flags);
  });

program
  .command("verify")
  .argument(
    "<folder>",
    "fixtures laid out like the golden reference: ops.json, optim.json, models/, curves/ …",
  )
  .description("run golden fixtures on this machine's adapter and print the largest error of each case")
  .option("--filter <text>", "only cases whose name holds this text")
  .option("--json", "one JSON object a line")
  .addHelpText(
    "after",
    examples("kiln verify tests/fixtures/golden", "kiln verify tests/fixtures/golden --filter attention"),
  )
  .action(async (folder: string, options: { filter?: string; json?: boolean }) => {
    await openOnce();
    const { verify } = await import("./bench/verify/index.ts");
    const { failed } = await verify(folder, {
      ...options,
      write: (line) => void process.stdout.write(`${line}\n`),
    });
    process.exitCode = failed > 0 ? 1 : 0;
  });

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
  .action(async (options: import("./bench/command.ts").BenchFlags) => {
    const { runBench } = await import("./bench/command.ts");
    await runBench(options);
  });

program
  .command("profile")
  .addArgument(new Argument("<work>", "what to look into").choices(["train", "decode"]))
  .description("show where the time of a training or decode step goes, kernel by kernel")
  .option("--model <folder>", "model folder in Hugging Face layout; default: an untrained TinyLLM")
  .option("--trace <file>", "also write a Chrome trace (chrome://tracing, Perfetto)")
  .option("--shapes", "a line for each set of shapes instead of each kernel")
  .option("--json", "one JSON object instead of a table")
  .addHelpText("after", examples("kiln profile train", "kiln profile decode --trace decode.json"))
  .action(async (work: "train" | "decode", options: import("./bench/profile.ts").ProfileOptions) => {
    const { profile } = await import("./bench/profile.ts");
    await profile(await openOnce(), work, options);
  });

program
  .command("demo")
  .description("what `npm start` runs: train a TinyLLM on built-in stories, show it, serve it")
  .option("--smoke", "toy length, one request to the server, then exit")
  .option("--out <folder>", "folder of the run", "runs/demo")
  .option("--port <n>", "0 takes a free one", port, 8000)
  .option("--fresh", "train again although the folder holds a finished model")
  .action(async (flags: { smoke?: boolean; out: string; port: number; fresh?: boolean }) => {
    const address = { port: flags.smoke ? 0 : flags.port, host: "127.0.0.1" };
    const { assertCanListen } = await import("./serve/index.ts");
    await assertCanListen(address);
    const { demo } = await import("./train/demo.ts");
    const { describe } = await import("./core/adapter.ts");
    say(describe((await openOnce()).description));
    const { loadModel } = await import("./models/checkpoint.ts");
    const { modelDir } = await demo({ ...flags, say, pretrain: runPretraining });
    const { serveModel } = await import("./serve/command.ts");
    await serveModel(await loadModel(modelDir), address, flags.smoke);
  });

let opened: Promise<import("./core/webgpu/device.ts").WebGpuDevice> | null = null;

/** The device of this process, opened once. */
async function openOnce() {
  const { openDevice } = await import("./kernels/index.ts");
  opened ??= openDevice();
  return opened;
}

/** Trains with samples drawn by the server's generator; the first Ctrl-C saves a checkpoint, the second ends at once. */
async function runPretraining(config: import("./train/config.ts").PretrainConfig) {
  const { pretrain } = await import("./train/pretrain.ts");
  const { TextGenerator } = await import("./serve/generate.ts");
  await openOnce();
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(130);
    say("\nstopping after this step; once more to stop at once without saving");
    controller.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await pretrain({
      config,
      say,
      signal: controller.signal,
      makeSampler: (model, tokenizer) => {
        const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
        return (prompt, options) => generator.complete(prompt, options);
      },
    });
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

/** Flags as settings: later than the file, named as the flag in messages. */
function flagOverrides(flags: PretrainFlags) {
  const paths: [keyof PretrainFlags, string, string[]][] = [
    ["data", "--data", ["data", "path"]],
    ["validationData", "--validation-data", ["data", "validation_path"]],
    ["out", "--out", ["out_dir"]],
    ["initFrom", "--init-from", ["model", "init_from"]],
    ["steps", "--steps", ["train", "steps"]],
    ["batchSize", "--batch-size", ["train", "batch_size"]],
    ["sequenceLength", "--sequence-length", ["train", "sequence_length"]],
    ["learningRate", "--learning-rate", ["train", "learning_rate"]],
    ["computeDtype", "--compute-dtype", ["train", "compute_dtype"]],
    ["vocabSize", "--vocab-size", ["tokenizer", "vocab_size"]],
    ["seed", "--seed", ["train", "seed"]],
    ["resume", "--resume", ["resume"]],
    ["resumeFrom", "--resume-from", ["resume"]],
  ];
  return paths.flatMap(([key, flag, path]) =>
    flags[key] === undefined ? [] : [{ path, value: flags[key], from: flag }],
  );
}

async function main(): Promise<void> {
  try {
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      return;
    }
    const { message, stack, exitCode } = error as KilnError;
    say(`kiln: ${Number(process.env.DEBUG) >= 1 ? stack : message}`);
    process.exitCode = exitCode ?? 1;
  }
}

/** After an error the device may still be at work; an exit under its threads can end the process by a signal. */
async function deviceIdle(): Promise<void> {
  const { setDevice } = await import("./core/device.ts");
  const idle = setDevice(null)
    ?.sync()
    .catch(() => {}); // whatever it says now, the command has said why it ended
  await Promise.race([idle, new Promise((resolve) => setTimeout(resolve, 2000))]);
}

await main();
if (process.exitCode) await deviceIdle();
// The driver's threads and pending timers must not keep a finished command alive.
process.exit();
