import { InvalidArgumentError, Option } from "commander";
import { definedOnly } from "../core/defined_only.ts";
import {
  type Command,
  decimal,
  listOf,
  nonEmpty,
  port,
  say,
  seedNumber,
  whole,
} from "../core/platform/command_line.ts";

import { LIMITS } from "./limits.ts";

const resolveModel = async (given: string) => (await import("../models/hub/resolve.ts")).resolveModel(given);
const openOnce = async () => (await import("../kernels/index.ts")).openOnce();

/** `kiln sample`, `kiln chat` and `kiln serve`. Everything is imported when it is needed: `--help` is instant. */
export function addServeCommands(program: Command): void {
  addSample(program);
  addChat(program);
  addServe(program);
}

const keys = listOf("a key of visible ASCII characters", /^[\x21-\x7e]+$/);
const key = (text: string) => keys(text)[0];
const hosts = listOf("a host without scheme and port, or *", /^(\*|[^\s/:@]+|\[?[\da-f:.]+\]?)$/i);
const origins = listOf(
  "an origin as browsers send it, for example https://app.example, or *",
  /^(\*|null|[a-z][a-z\d+.-]*:\/\/[^\s/A-Z]+)$/,
);
const metricsPrefix = (text: string) => {
  if (/^[a-z_]\w*$/i.test(text)) return text;
  throw new InvalidArgumentError("expected letters, digits and underscores, such as vllm.");
};
const adapters = (text: string, before: import("./lora.ts").AdapterSource[] = []) => {
  const expected = new InvalidArgumentError(
    'expected NAME=PATH or {"name": …, "path": …, "base_model_name": …}.',
  );
  const [, name, path] = /^([^={]+)=(.+)$/.exec(text) ?? [];
  if (name !== undefined) return [...before, { name, path }];
  try {
    const { name, path, base_model_name: base } = JSON.parse(text);
    if (![name, path, base ?? "-"].every((value) => typeof value === "string" && value !== ""))
      throw expected;
    return [...before, { name, path, base }];
  } catch {
    throw expected;
  }
};
const between = (low: number, high: number) =>
  decimal(`a number from ${low} to ${high}`, (x) => x >= low && x <= high);
const modelArgument =
  "model folder in Hugging Face layout, finished run, GGUF file, org/name after kiln pull, or NAME@VERSION of the registry";

/** The type in which a model computes its answers. */
const dtypeOption = () =>
  new Option(
    "--dtype <type>",
    "type of weights and cache; f16 takes half the memory, on adapters that have it",
  )
    .choices(["f32", "f16"])
    .default("f32");

/** Who answers besides the models that are given. */
const providersOption = () =>
  new Option(
    "--providers <file>",
    "YAML of providers, ensembles, routes and budgets: docs/providers.md",
  ).argParser(nonEmpty);

interface WritingFlags {
  adapter?: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number | bigint;
  dtype: "f32" | "f16";
}

interface SampleFlags extends WritingFlags {
  prompt: string;
  strategy?: "mask-predict" | "gibbs";
  iterations?: number;
  burnIn?: number;
}

/** How a model writes. */
const withWriting = (command: Command) =>
  command
    .option("--adapter <folder>", "answer with this PEFT adapter, such as the model/ of a LoRA run", nonEmpty)
    .option("--temperature <x>", "0 takes the likeliest token each time", between(0, 2), 0.8)
    .option("--top-k <n>", "keep the k likeliest tokens", whole(0))
    .option(
      "--top-p <x>",
      "keep the likeliest tokens up to this probability together",
      decimal("a number above 0, up to 1", (x) => x > 0 && x <= 1),
    )
    .option("--min-p <x>", "keep tokens at least this share as likely as the likeliest", between(0, 1))
    .option("--seed <n>", "the same seed gives the same text", seedNumber)
    .addOption(dtypeOption());

const writingOptions = ({ maxTokens: max_tokens, temperature, topK, topP, minP, seed }: WritingFlags) => ({
  max_tokens,
  temperature,
  ...definedOnly({ top_k: topK, top_p: topP, min_p: minP, seed }),
});

function addSample(program: Command): void {
  withWriting(program.command("sample").argument("<model>", modelArgument))
    .description("continue a prompt: token by token, or with a masked language model over and over")
    .option("--prompt <text>", "what to continue", "Once upon a time")
    .option("--max-tokens <n>", "tokens to write at most", whole(0), 200)
    .choice(
      "--strategy <name>",
      "of a masked language model: mask-predict (the default) rewrites what is least certain, gibbs a token at a time",
      ["mask-predict", "gibbs"],
    )
    .option("--iterations <n>", "how often a masked language model goes through the text (10)", whole(1))
    .option(
      "--burn-in <n>",
      "the first iterations of gibbs, which draw from all tokens (half of them)",
      whole(0),
    )
    .examples(
      'kiln sample runs/demo/model --prompt "Once upon a time"',
      'kiln sample runs/demo/model --prompt "" --temperature 0 --max-tokens 50',
      'kiln sample runs/mlm/model --prompt "The cat" --max-tokens 20 --strategy gibbs --top-k 20',
    )
    .action(async (given: string, flags: SampleFlags) => {
      const path = await resolveModel(given);
      const { isEncoderConfig, readModelConfig } = await import("../models/architectures.ts");
      if (isEncoderConfig(await readModelConfig(path))) return sampleMasked(path, flags);
      await refuseMaskedFlags(given, flags);
      await (await import("./adapter_choice.ts")).takeQuickest(path, flags.dtype, { measure: false });
      await openOnce();
      const { loadAdapted } = await import("../models/formats/peft_directory.ts");
      const { TextGenerator } = await import("./text/text_generator.ts");
      const { model, tokenizer } = await loadAdapted(path, flags.adapter, flags.dtype);
      const generator = new TextGenerator(model, tokenizer, { maxSequences: 1 });
      // The prompt is printed with the first piece, so that a refusal prints the error alone.
      let before = flags.prompt;
      for await (const text of generator.stream(flags.prompt, writingOptions(flags))) {
        process.stdout.write(before + text);
        before = "";
      }
      process.stdout.write(`${before}\n`);
    });
}

function addChat(program: Command): void {
  withWriting(program.command("chat").argument("<model>", modelArgument))
    .description("talk to a model in its chat template; from a pipe each line is a message")
    .option("--system <text>", "what the model is told before the conversation", "")
    .option("--max-tokens <n>", "tokens of an answer at most", whole(1), 256)
    .option("--json", "print each answer as a JSON object")
    .examples(
      "kiln chat runs/chat/model",
      'kiln chat org/name --adapter runs/lora/model --system "You are a pirate."',
      "kiln chat runs/chat/model --temperature 0 --json < questions.txt > answers.jsonl",
    )
    .addHelpText(
      "after",
      "\nIn the conversation: /help for /run, /explain, /rate, /system, /model, /save, /load, /undo, /retry, /context\nTyped lines are kept in ~/.kiln_history; KILN_HISTORY names another file, or none where it is empty.\n",
    )
    .action(async (given: string, flags: WritingFlags & { system: string; json?: boolean }) => {
      const path = await resolveModel(given);
      await (await import("./adapter_choice.ts")).takeQuickest(path, flags.dtype, { measure: false });
      await openOnce();
      const { openChat } = await import("./app/repl/open_chat.ts");
      const { ChatSession } = await import("./app/repl/chat_session.ts");
      const { ChatRepl } = await import("./app/repl/repl.ts");
      const { historyFile } = await import("./app/repl/history_file.ts");
      const { adapter, dtype, json, system } = flags;
      const model = await openChat(path, { name: given, adapter, dtype, say });
      const session = new ChatSession(model, writingOptions(flags));
      session.system = system;
      const open = async (name: string) => openChat(await resolveModel(name), { name, dtype, say });
      if (process.stdin.isTTY) say("/help lists the commands; Ctrl-D leaves");
      process.exitCode = await new ChatRepl(session, { open, json, say, history: historyFile() }).run();
    });
}

async function refuseMaskedFlags(model: string, { strategy, iterations, burnIn }: SampleFlags) {
  const flag = strategy ? "strategy" : iterations ? "iterations" : burnIn === undefined ? null : "burn-in";
  if (flag === null) return;
  const { usageError } = await import("../core/errors.ts");
  throw usageError(`--${flag} is for masked language models; ${model} writes token by token: leave it out`);
}

/** `kiln sample` with a masked language model. */
async function sampleMasked(path: string, flags: SampleFlags): Promise<void> {
  await openOnce();
  const { fromPretrained } = await import("../models/formats/hf_directory.ts");
  const { MaskedGenerator } = await import("../models/masked_generation.ts");
  const { duration, ProgressLine } = await import("../core/platform/progress_line.ts");
  const { model, tokenizer } = await fromPretrained(path, { dtype: flags.dtype });
  if (flags.adapter !== undefined) {
    const { loadAdapter } = await import("../models/formats/peft_directory.ts");
    const { useAdapter } = await import("../models/adapters.ts");
    await loadAdapter(model, flags.adapter);
    useAdapter(model, "default");
  }
  const line = new ProgressLine();
  const begin = line.now();
  const generator = new MaskedGenerator(model as import("../models/encoder.ts").Encoder, tokenizer, {
    ...definedOnly({ strategy: flags.strategy, iterations: flags.iterations, burn_in: flags.burnIn }),
    progress: (share) => {
      const seconds = (line.now() - begin) / 1000;
      if (seconds > 2) line.update(share, `writing, ETA ${duration((seconds / share) * (1 - share))}`);
    },
  });
  try {
    const [[{ text }]] = await generator.generate([flags.prompt], writingOptions(flags));
    line.end();
    process.stdout.write(`${flags.prompt}${text}\n`);
  } finally {
    line.end();
  }
}

/** Where a server listens, and to whom. */
const withAccess = (command: Command) =>
  command
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
    .addOption(
      new Option(
        "--admin-key <key>",
        "the key that may load and unload models, and move aliases, while the server runs",
      )
        .env("KILN_ADMIN_KEY")
        .argParser(key),
    )
    .option(
      "--model-dir <folder>",
      "a folder whose models the holder of --admin-key may load; several are allowed",
      listOf("a folder", /./),
    )
    .option("--strict", "refuse unknown request fields")
    .option(
      "--metrics-prefix <name>",
      "what the names at /metrics begin with (default kiln); vllm fits the dashboards made for it",
      metricsPrefix,
    )
    .option(
      "--allowed-host <name>",
      "a name besides localhost to answer to without a key, or *; several are allowed",
      hosts,
    )
    .option(
      "--allowed-origin <origin>",
      "an origin whose pages may ask without a key, besides local ones, or *; several are allowed",
      origins,
    );

function addServe(program: Command): void {
  withAccess(program.command("serve"))
    .argument("<models...>", `each a ${modelArgument}; NAME=MODEL gives it a name, NAME,ALIAS=MODEL several`)
    .description("serve models to OpenAI clients: they write, embed, classify or rerank texts, as each can")
    .option(
      "--served-model-name <name>",
      "of one model, the name that clients use (default: the folder's name), and given again, aliases",
      listOf("a text that is not empty", /./),
    )
    .option("--max-model-len <n>", "longest prompt plus answer, in tokens", whole(1))
    .option("--max-num-seqs <n>", "answers written at once", whole(1, 1024), 64)
    .option("--max-num-batched-tokens <n>", "tokens computed in one step", whole(1, 65536), 512)
    .option(
      "--cache-mib <n>",
      "room for keys and values (default 256): models that write share it evenly, but none gets more than --max-num-seqs of its longest answers need; with --admin-key a share is left for one more",
      whole(1),
    )
    .option(
      "--lora-modules <name=path...>",
      "LoRA adapters of PEFT (or GGUF) to serve beside their model, each as a model of its own; with several models as JSON with name, path and base_model_name",
      adapters,
    )
    .option(
      "--shutdown-timeout <s>",
      "seconds that running answers have after a signal, before they are cut off",
      whole(0, 86_400),
      LIMITS.drainMs / 1000,
    )
    .option("--max-loras <n>", "adapters that a model may have at once", whole(1, 4096), 16)
    .option("--max-lora-rank <n>", "rank that an adapter may have", whole(1, 4096), 64)
    .addOption(providersOption())
    .addOption(dtypeOption())
    .examples(
      "kiln serve runs/demo/model --port 8000",
      "kiln serve small=runs/a/model large,gpt-4o-mini=runs/b/model",
      "kiln serve runs/demo/model sentence-transformers/all-MiniLM-L6-v2 spam=runs/spam/model",
      "kiln serve runs/base/model --lora-modules poems=runs/poems/model jokes=runs/jokes/model",
      "kiln serve v1,chat=runs/v1/model --model-dir runs --admin-key SECRET",
    )
    .action(async (given: string[], flags: import("./serve_model.ts").ServeFlags) => {
      const { EngineProcess } = await import("./process/engine_process.ts");
      const engines = new EngineProcess({ say });
      // It reads its own modules while this process does.
      engines.start();
      try {
        const { planServing, serveModels } = await import("./serve_model.ts");
        const plan = await planServing(given, flags);
        const { takeQuickest } = await import("./adapter_choice.ts");
        const writer = plan.sources.find((_, i) => plan.needs[i] > 0);
        const taken = writer && (await takeQuickest(writer.path, flags.dtype ?? "f32", { say }));
        if (taken) say(taken);
        await serveModels(plan, { engines });
      } finally {
        await engines.close();
      }
    });
}
