import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addBenchCommands } from "../bench/commands.ts";
import { Command } from "../core/platform/command_line.ts";
import { addModelCommands } from "../models/commands.ts";
import { addUserCommands } from "../serve/app/commands.ts";
import { addRouteCommands } from "../serve/app/ensemble/commands.ts";
import { addExperimentCommands } from "../serve/app/experiments/commands.ts";
import { addJobCommands } from "../serve/app/jobs/commands.ts";
import { addProviderCommands } from "../serve/app/providers/commands.ts";
import { addServeCommands } from "../serve/commands.ts";
import { addStoreCommands } from "../serve/store/commands.ts";
import { addTrainCommands, type Writers } from "../train/commands.ts";

/** A folder with a config and nothing else: what is refused because of it was refused before any loading. */
let model: string;
beforeAll(() => {
  model = mkdtempSync(join(tmpdir(), "kiln-cli-"));
  const sizes = { vocab_size: 64, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1 };
  const config = { model_type: "llama", ...sizes, num_attention_heads: 2, max_position_embeddings: 128 };
  writeFileSync(join(model, "config.json"), JSON.stringify(config));
});
afterAll(() => rmSync(model, { recursive: true }));

/** Runs the command on no adapter at all: whatever needs one ends with "No WebGPU adapter". */
function kiln(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, KILN_ADAPTER: "none" };
  return new Promise((resolve) => {
    execFile(process.execPath, ["bin/kiln.mjs", ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

it("every flag that messages and documents name exists", () => {
  const commands = [
    ...["cli.ts", "train/recipes/index.ts"],
    ...["bench", "models", "serve", "train"].flatMap(list).filter((file) => file.endsWith("/commands.ts")),
  ]
    .map((file) => readFileSync(file, "utf8"))
    .join("\n");
  const declared = new Set(commands.match(/"--[a-z][a-z-]+/g)!.map((m) => m.slice(1)));
  const files = ["README.md", ...["docs", "train", "models", "serve"].flatMap(list)];
  const named = files.flatMap((file) => {
    const found = readFileSync(file, "utf8").matchAll(/(?<![\w-])--[a-z][a-z-]+(?![\w-]|\.\w)/g);
    return [...found].map(([flag]) => ({ file, flag }));
  });
  // Of browsers, Node, style sheets, npm, vitest, esbuild, llama.cpp, torchrun, unshare, docker, apt, aws and vulkaninfo, and
  // a number counted down.
  const others =
    /^--(no-sandbox|enable-unsafe-webgpu|enable-features|expose-gc|max-old-space-size|axis|depth|this|sequence|ignore-scripts|help|project|bundle|minify|format|outfile|allow-requantize|ink|line|soft|lora|nproc|strategy|first|no-warnings|map-root-user|net|build|gpus|summary|no-install-recommends|region|username|password-stdin)$/;
  expect(named.length).toBeGreaterThan(40);
  const unknown = named.filter(({ flag }) => !declared.has(flag) && !others.test(flag));
  expect(unknown).toEqual([]);
  // Naming it is not enough: commander must know it, from a call or from a row of train's tables.
  const options =
    /(?:\.(?:option|requiredOption|choice)\(|new Option\(|^ *(?:flags: \[|const \w+: Flag = )?\[)\s*"(--[a-z-]+)/gm;
  const known = new Set([...commands.matchAll(options)].map(([, flag]) => flag));
  expect([...declared].filter((flag) => !known.has(flag))).toEqual([]);
});

/** All commands but those of `cli.ts` itself, and what each prints as its help at 80 columns. */
function commandTree() {
  let printed = "";
  const program = new Command("kiln").configureOutput({
    writeOut(text) {
      printed += text;
    },
    getOutHelpWidth: () => 80,
  });
  addTrainCommands(program, {} as Writers, async () => []);
  for (const add of [
    addServeCommands,
    addUserCommands,
    addJobCommands,
    addExperimentCommands,
    addProviderCommands,
    addRouteCommands,
    addStoreCommands,
    addModelCommands,
    addBenchCommands,
  ])
    add(program);
  const helps = leaves(program).map((command) => {
    printed = "";
    command.outputHelp();
    return printed;
  });
  return { program, helps };
}

const leaves = (command: Command): Command[] =>
  command.commands.length === 0 ? [command] : command.commands.flatMap(leaves);

/** The flags of the commands in a text that the command so called does not have. */
function strangeFlags(program: Command, text: string): string[] {
  return [...text.replaceAll("\\\n", " ").matchAll(/\bkiln ([^\n`|>#;]+)/g)].flatMap(([line, after]) => {
    const words = after.split(/\s+/);
    let command = program;
    for (const word of words) command = command.commands.find((child) => child.name() === word) ?? command;
    if (command.commands.length > 0) return []; // prose, or `kiln train NAME`
    const known = new Set(["--help", ...command.options.map(({ long }) => long)]);
    const strange = words.filter((word) => /^--[a-z][a-z-]+$/.test(word) && !known.has(word));
    return strange.map((flag) => `${flag} in ${line}`);
  });
}

it("commands in documents and examples have the flags that are given to them", () => {
  const { program, helps } = commandTree();
  const documents = ["README.md", ...["docs", "train", "models", "serve"].flatMap(list)];
  const texts = documents.filter((file) => file.endsWith(".md")).map((file) => readFileSync(file, "utf8"));
  expect(strangeFlags(program, "`kiln export a --steps 2 --rank 4`")).toHaveLength(1);
  expect([...texts, ...helps].flatMap((text) => strangeFlags(program, text))).toEqual([]);
});

it("help is readable at 80 columns", async () => {
  const root = (await kiln(["--help"])).stdout;
  expect(root).toMatch(/\n {2}classify /);
  for (const help of [root, ...commandTree().helps]) {
    const lines = help.split("\nExamples:")[0].split("\n");
    expect(lines.filter((line) => line.length > 80)).toEqual([]);
    expect(help).not.toContain("default: []");
  }
});

it("a model to start from that is given twice is refused", async () => {
  const done = await kiln(["train", "sft", model, "--init-from", "runs/b", "--data", "chats.jsonl"]);
  expect(done.code).toBe(2);
  expect(done.stderr).toContain("the model to start from is given twice");
});

function list(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(ts|md)$/.test(name) && name !== "log.md")
    .map((name) => join(folder, name));
}

describe("refused before anything is loaded", () => {
  it.each<[string[], number, string]>([
    [["--max-model-len", "0"], 2, "expected a whole number, 1 or more."],
    [
      ["--max-model-len", "99999"],
      1,
      "a context of 99999 tokens cannot be served: the model has 128 positions; give --max-model-len from 1 to 128, or leave it out",
    ],
    [["--max-num-seqs", "0"], 2, "expected a whole number from 1 to 1024."],
    [["--max-num-seqs", "1e308"], 2, "expected a whole number from 1 to 1024."],
    [["--max-num-seqs", "600"], 1, "--max-num-seqs (600) can be at most --max-num-batched-tokens (512)"],
    [["--max-num-batched-tokens", "0"], 2, "expected a whole number from 1 to 65536."],
    [["--cache-mib", "-5"], 2, "expected a whole number, 1 or more."],
    [["--port", "65536"], 2, "expected a whole number from 0 to 65535."],
    [["--port", ""], 2, "expected a whole number from 0 to 65535."],
    [
      ["--host", "203.0.113.9"],
      1,
      "203.0.113.9 is not an address of this machine: choose another with --host",
    ],
    // An empty host would be every address of the machine.
    [["--host", ""], 2, "expected a text that is not empty."],
    [["--served-model-name", ""], 2, "expected a text that is not empty."],
    [
      ["--served-model-name", "a b"],
      2,
      '"a b" is no name for a model: leave out spaces and control characters',
    ],
    [["--served-model-name", "a", "--served-model-name", "b\u0007"], 2, '"b\\u0007" is no name for a model'],
    [["--lora-modules", "po ems=x"], 2, '"po ems" is no name for a model'],
    [["--api-key", ""], 2, "expected a key of visible ASCII characters."],
    [["--allowed-origin", "https://app.example/"], 2, "expected an origin as browsers send it"],
    [["--allowed-host", "http://kiln.test"], 2, "expected a host without scheme and port"],
    [["--port", "0"], 1, "No WebGPU adapter was found"],
  ])("kiln serve %j", async (flags, code, message) => {
    const done = await kiln(["serve", model, ...flags]);
    expect(done.stderr).toContain(message);
    expect(done.code).toBe(code);
  });

  it("kiln serve and kiln demo on a port in use", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as { port: number };
    const line = `kiln: port ${port} on 127.0.0.1 is in use: stop the other program or choose another port with --port\n`;
    expect(await kiln(["serve", model, "--port", `${port}`])).toMatchObject({ code: 1, stderr: line });
    expect(await kiln(["demo", "--port", `${port}`])).toMatchObject({ code: 1, stderr: line });
    await new Promise((resolve) => other.close(resolve));
  });

  it.each<[string[], number, string]>([
    [["sample", "m", "--temperature", "-1"], 2, "expected a number from 0 to 2."],
    [["sample", "m", "--top-p", "0"], 2, "expected a number above 0, up to 1."],
    [["sample", "m", "--min-p", "NaN"], 2, "expected a number from 0 to 1."],
    [["sample", "m", "--top-k", "1.5"], 2, "expected a whole number, 0 or more."],
    [["sample", "m", "--max-tokens", "1e308"], 2, "expected a whole number, 0 or more."],
    [["train", "pretrain", "--steps", "0"], 2, "expected a whole number, 1 or more."],
    [["train", "pretrain", "--learning-rate", "0"], 2, "expected a number above 0."],
    [["train", "pretrain", "nowhere.yaml"], 1, "nowhere.yaml does not exist"],
    [["train", "pretrain", "--set", "train.warmup_steps=-1"], 1, "--set train.warmup_steps=-1"],
    [["bench", "--budget", "0"], 2, "expected a whole number, 1 or more."],
    [["serve"], 2, "missing required argument 'models'"],
    [["serve", "/nowhere"], 1, "/nowhere does not exist"],
    [["nonsense"], 2, "unknown command 'nonsense'"],
  ])("kiln %j", async (args, code, message) => {
    const done = await kiln(args);
    expect(done.stderr).toContain(message);
    expect(done.code).toBe(code);
  });
});
