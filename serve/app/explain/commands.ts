import { type Command, nonEmpty, say, whole } from "../../../core/platform/command_line.ts";

interface ExplainFlags {
  prompt: string;
  target?: string;
  topK: number;
  html?: string;
  json?: boolean;
}

/** `kiln explain`. Everything is imported when it is needed: `--help` is instant. */
export function addExplainCommand(program: Command): void {
  program
    .command("explain")
    .argument("<model>", "model folder, finished run, GGUF file, org/name after kiln pull, or NAME@VERSION")
    .description("why a model continues a prompt as it does: alternatives, attributions, attention")
    .requiredOption("--prompt <text>", "at most 512 tokens, what follows included", nonEmpty)
    .option("--target <text>", "what follows; default: the likeliest token", nonEmpty)
    .option("--top-k <n>", "alternatives of each token", whole(1, 100), 5)
    .option("--html <file>", "also write one page with attention maps and attributions", nonEmpty)
    .option("--json", "print the result as one JSON object")
    .examples(
      'kiln explain runs/demo/model --prompt "Once upon a time there was a" --html why.html',
      'kiln explain runs/code/model --prompt "def add(a, b):" --target " return a + b"',
    )
    .action(runExplain);
}

async function runExplain(given: string, flags: ExplainFlags): Promise<void> {
  const { pageFile, writeExplanation } = await import("./page.ts");
  const file = flags.html === undefined ? null : pageFile(flags.html);
  const path = await (await import("../../../models/hub/resolve.ts")).resolveModel(given);
  await (await import("../../../kernels/index.ts")).openOnce();
  const { loadModel } = await import("../../../models/formats/hf_directory.ts");
  const { choiceLines, choicesOf, explain, gapLine } = await import("./explain.ts");
  const { model, tokenizer } = await loadModel(path);
  const prompt = await tokenizer.encode(flags.prompt);
  const from = prompt.length;
  const count = flags.topK;
  const target =
    flags.target === undefined
      ? [(await choicesOf(model, tokenizer, [...prompt, 0], { from, count: 1 }))[0].alternatives[0].id]
      : (await tokenizer.encodePieces([flags.target])).ids;
  const explanation = await explain(model, tokenizer, [...prompt, ...target], from, count);
  const { attention: _, rollout: __, ...rest } = explanation;
  if (file !== null) {
    writeExplanation(file, explanation, `${JSON.stringify(flags.prompt)} by ${given}`);
    say(`wrote ${flags.html}`);
  }
  if (flags.json) return void process.stdout.write(`${JSON.stringify(rest)}\n`);
  const { integratedGradients, gradientTimesInput } = explanation.attribution;
  const weights = explanation.tokens.slice(0, from).map((token, t) => {
    const columns = [integratedGradients[t], gradientTimesInput[t]].map((x) => x.toFixed(4).padStart(10));
    return `${columns.join("")}  ${JSON.stringify(token)}`;
  });
  const lines = [
    ...choiceLines(explanation.choices),
    ...["", "integrated  gradient  of the prompt's tokens, in nats", ...weights, ""],
    gapLine(explanation.attribution),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}
