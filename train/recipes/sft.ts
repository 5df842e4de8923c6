import { z } from "zod";
import { KilnError } from "../../core/errors.ts";
import { readTokenizer } from "../../models/formats/hf_directory.ts";
import { ChatTemplate, PLAIN_TURNS, withChatTemplate } from "../../tokenizer/index.ts";
import { concludeAdapter, firstLogits } from "../adapters.ts";
import { openChatModel } from "../chat_model.ts";
import { previewChats } from "../data/chat_preview.ts";
import { fitRows } from "../data/fit_rows.ts";
import {
  type Batch,
  type ChatExample,
  chatBatch,
  chatBatches,
  packExamples,
  readChatData,
  ShuffledBatches,
  splitExamples,
} from "../data/index.ts";
import { assertOutside } from "../data/text_data.ts";
import { Validation } from "../evaluate.ts";
import { existingOrigin } from "../model_settings.ts";
import type { Recipe } from "../recipe.ts";
import { adapter } from "../settings/adapter.ts";
import { data, model } from "../settings/chat.ts";
import { checkTrain, runSettings, sampleSettings } from "../settings/run.ts";

const sample = sampleSettings(["Hello!"], "messages that the samples answer");
const schema = z
  .strictObject({ model, data, adapter, ...runSettings("sft"), sample })
  .superRefine(checkTrain);

type SftConfig = z.output<typeof schema>;

/** Trains a decoder on conversations: the loss is that of what the assistant says, its turn-end tokens included. */
export const recipe: Recipe<SftConfig, Batch> = {
  name: "sft",
  schema,
  inputs: ["model.init_from", "data.path", "data.validation_path"],

  check: ({ out_dir, data: { path, validation_path } }) => assertOutside(out_dir, path, validation_path),

  /** Little data is learned in rows that leave some updates in a pass. */
  async fit(config) {
    const { data, model, train } = config;
    if (data.min_updates === 0) return config;
    const own = await readTokenizer(await existingOrigin(model.init_from));
    const template = model.plain_turns
      ? new ChatTemplate(own, PLAIN_TURNS)
      : new ChatTemplate(withChatTemplate(own));
    const { examples } = await readChatData(data.path, template, train.sequence_length);
    const lengths = examples.map(({ tokens }) => tokens.length);
    return { ...config, train: { ...train, ...fitRows(lengths, data.min_updates, train) } };
  },

  async preview({ model: { init_from }, data: { path }, train }, isTerminal) {
    const tokenizer = withChatTemplate(await readTokenizer(await existingOrigin(init_from)));
    return previewChats(path, tokenizer, { longest: train.sequence_length, colours: isTerminal });
  },

  async open(config, context) {
    const { train } = config;
    const { sequence_length: seqLen, seed } = train;
    const { model, tokenizer, template, note, added, reopen } = await openChatModel(config, context);
    if (note) context.say(note);
    const { rows, held, content } = await openChats(config, template, context.say);
    const sampler = context.makeSampler(model, tokenizer);
    const { prompts, max_tokens, temperature } = config.sample;
    return {
      model,
      tokenizer,
      batches: new ShuffledBatches(rows, { batchSize: train.batch_size, seed }, (chosen) =>
        chatBatch(chosen, seqLen),
      ),
      evaluation: new Validation(
        { rows: held.length, seqLen, batches: (options) => chatBatches(held, { ...options, seqLen }) },
        config.eval.tokens,
      ),
      async sample(seed) {
        const texts: string[] = [];
        for (const prompt of prompts) {
          const asked = { messages: [{ role: "user" as const, content: prompt }] };
          const { ids } = await template.encode(asked, { addGenerationPrompt: true });
          texts.push(`User: ${prompt}\nAssistant: ${await sampler(ids, { max_tokens, temperature, seed })}`);
        }
        return texts;
      },
      ...(added && {
        conclude: (outDir: string) =>
          concludeAdapter(model, tokenizer, {
            outDir,
            logits: firstLogits(chatBatch(rows.slice(0, 1), seqLen)),
            reopen,
            ...context,
          }),
      }),
      decisive: { data: content, model: model.config, tokenizer: tokenizer.hash(), ...added },
      close() {},
    };
  },
};

/** Rows to learn from and to be measured on. Says how much there is. */
async function openChats({ data, train }: SftConfig, template: ChatTemplate, say: (line: string) => void) {
  const longest = train.sequence_length;
  const read = async (files: readonly string[]) => {
    const { examples, tooLong, empty, hash } = await readChatData(files, template, longest);
    const name = files.join(", ");
    const left = `${tooLong} conversations longer than train.sequence_length ${longest}, ${empty} with an empty turn of the user or the assistant`;
    if (examples.length === 0) {
      const remedy = tooLong > 0 ? "raise --sequence-length as far as the model reads" : "give other data";
      throw new KilnError(`${name}: no conversation is left: ${left}; ${remedy}`, { code: "corpus_empty" });
    }
    if (tooLong + empty > 0) say(`left out of ${name}: ${left}`);
    return { examples, hash };
  };
  const { min_updates: _, ...reading } = data;
  const { training, held: others, content } = await splitExamples(reading, read);
  const pack = (examples: ChatExample[]) =>
    data.packing ? packExamples(examples, longest) : examples.map((example) => [example]);
  const [rows, held] = [pack(training), pack(others)];
  const size = (all: ChatExample[][]) => `${all.flat().length} conversations in ${all.length} rows`;
  say(`training data: ${size(rows)}; validation data: ${size(held)}`);
  return { rows, held, content };
}
