import { type Command, nonEmpty, say, untilInterrupted, whole } from "../core/platform/command_line.ts";
import type { Pooling } from "../nn/index.ts";
import type { Task } from "./labels.ts";
import { addRegistryCommands } from "./registry/commands.ts";

/** `kiln pull`, `model`, `classify`, `fill-mask` and `embed`. Everything is imported when it is needed: `--help` is instant. */
export function addModelCommands(program: Command): void {
  addPull(program);
  addRegistryCommands(program);
  addClassify(program);
  addFillMask(program);
  addEmbed(program);
}

function addPull(program: Command): void {
  program
    .command("pull")
    .argument("<name>", "org/name, or org/name@revision: a branch, a tag or a commit hash")
    .description("fetch a model from the Hugging Face hub into its cache, or what of it is missing")
    .option("--include <pattern...>", "the files to fetch, instead of those that kiln needs; * is any text")
    .option("--max-gib <n>", "refuse to fetch more than this", whole(1), 50)
    .option("--json", "print the result as one JSON object")
    .examples(
      "kiln pull openai-community/gpt2",
      "kiln pull openai-community/gpt2@main --json",
      'kiln pull org/name-GGUF --include "*Q8_0.gguf"',
      "kiln sample openai-community/gpt2",
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

/** A command that writes a line of JSON for each text that it is given. */
function textCommand(program: Command, name: string, description: string): Command {
  return program
    .command(name)
    .argument(
      "<model>",
      "model folder in Hugging Face layout, finished run, org/name after kiln pull, or NAME@VERSION of the registry",
    )
    .argument("[text...]", "the texts; without any, the lines of --file or of standard input")
    .description(`${description}; a JSON object a text`)
    .option("--file <path>", "a text a line", nonEmpty);
}

interface TextFlags {
  file?: string;
}

/** Answers the texts a batch at a time: `answer` gives an object for each, which is written beside its text. */
async function answerTexts(
  texts: string[],
  { file }: TextFlags,
  answer: (texts: string[]) => Promise<object[]>,
): Promise<void> {
  const write = async (batch: string[]) => {
    const answers = batch.length > 0 ? await answer(batch) : [];
    for (const [i, found] of answers.entries())
      process.stdout.write(`${JSON.stringify({ text: batch[i], ...found })}\n`);
  };
  if (texts.length > 0) return write(texts);
  const { textLines } = await import("../core/platform/text_lines.ts");
  let batch: string[] = [];
  for await (const line of textLines(file)) {
    if (batch.push(line) < 64) continue;
    await write(batch);
    batch = [];
  }
  await write(batch);
}

/** `sayCut` says how many texts were longer than the model reads; of those the beginning counts. */
async function openPipeline<T extends Task>(task: T, model: string) {
  await (await import("../kernels/index.ts")).openOnce();
  const { resolveModel } = await import("./hub/resolve.ts");
  const { pipeline } = await import("./pipeline.ts");
  const directory = await resolveModel(model);
  let [texts, most, longest] = [0, 0, 0];
  const onTruncated = (tokens: number, read: number) => {
    texts++;
    longest = read;
    most = Math.max(most, tokens);
  };
  const sayCut = () => {
    const are = texts === 1 ? "text is" : "texts are";
    if (texts > 0)
      say(
        `${texts} ${are} longer than the ${longest} tokens that the model reads (the longest has ${most}): only the first ${longest} count`,
      );
  };
  return { run: await pipeline(task, directory, { onTruncated }), directory, sayCut };
}

function addClassify(program: Command): void {
  textCommand(program, "classify", "say which label a text has")
    .option("--top-k <n>", "the likeliest labels instead of one", whole(1))
    .examples('kiln classify runs/sst2/model "a fine film"', "kiln classify m --file a.txt")
    .action(async (model: string, texts: string[], flags: TextFlags & { topK?: number }) => {
      const { run, sayCut } = await openPipeline("text-classification", model);
      await answerTexts(texts, flags, async (batch) => {
        const found = await run(batch, { top_k: flags.topK ?? 1 });
        return found.map((each) => (Array.isArray(each) || flags.topK ? { labels: [each].flat() } : each));
      });
      sayCut();
    });
}

function addFillMask(program: Command): void {
  textCommand(program, "fill-mask", "say which words may stand in place of a text's mask")
    .option("--top-k <n>", "how many", whole(1), 5)
    .examples('kiln fill-mask google-bert/bert-base-uncased "Paris is in [MASK]."')
    .action(async (model: string, texts: string[], flags: TextFlags & { topK: number }) => {
      const { run, sayCut } = await openPipeline("fill-mask", model);
      await answerTexts(texts, flags, async (batch) => {
        const fills = await run(batch, { top_k: flags.topK });
        return fills.map((each) => ({ fills: each }));
      });
      sayCut();
    });
}

function addEmbed(program: Command): void {
  textCommand(program, "embed", "turn a text into a vector")
    .choice("--pooling <how>", "mean of all tokens, or the first; default: the model's own, else mean", [
      "mean",
      "cls",
    ])
    .option("--no-normalize", "keep the length of a vector instead of making it 1")
    .examples('kiln embed sentence-transformers/all-MiniLM-L6-v2 "a text"')
    .action(
      async (
        model: string,
        texts: string[],
        flags: TextFlags & { pooling?: Pooling; normalize: boolean },
      ) => {
        const { run, directory, sayCut } = await openPipeline("feature-extraction", model);
        const { modelPooling } = await import("./pipeline.ts");
        const pooling = flags.pooling ?? (await modelPooling(directory)) ?? "mean";
        await answerTexts(texts, flags, async (batch) => {
          const { data, dims } = await run(batch, { pooling, normalize: flags.normalize });
          return batch.map((_, i) => ({ embedding: [...data.subarray(i * dims[1], (i + 1) * dims[1])] }));
        });
        sayCut();
      },
    );
}
