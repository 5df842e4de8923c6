import { dispose } from "../../../core/scope.ts";
import { removeAdapter } from "../../../models/adapters.ts";
import { loadAdapted } from "../../../models/formats/peft_directory.ts";
import { withChat } from "../../../models/vocabulary.ts";
import { ChatTemplate } from "../../../tokenizer/index.ts";
import { TextGenerator } from "../../text/text_generator.ts";
import { choicesOf, explain } from "../explain/explain.ts";
import type { ChatModel, Lens } from "./chat_session.ts";

export interface OpenOptions {
  /** What the person called the model. */
  name: string;
  /** A PEFT directory. */
  adapter?: string | undefined;
  dtype: "f32" | "f16";
  say: (line: string) => void;
}

/** A model that is a directory or GGUF file, to talk to. */
export async function openChat(path: string, { name, adapter, dtype, say }: OpenOptions): Promise<ChatModel> {
  const { model, tokenizer, note } = await loadAdapted(path, adapter, dtype, withChat);
  if (note) say(`${note}; kiln train sft teaches it to answer and to stop`);
  const writer = new TextGenerator(model, tokenizer, { maxSequences: 1 });
  const close = () => {
    writer.close();
    for (const each of [...model.adapters.keys()]) removeAdapter(model, each);
    dispose(model.parameters());
  };
  const context = model.shape.max_position_embeddings;
  const textOf = async (prompt: readonly number[], answer: string) => [
    ...prompt,
    ...(await tokenizer.encodePieces([answer])).ids,
  ];
  const lens: Lens = {
    alternatives: async (prompt, answer) => {
      const ids = (await textOf(prompt, answer)).slice(0, context);
      return choicesOf(model, tokenizer, ids, { from: prompt.length });
    },
    everything: async (prompt, answer) =>
      explain(model, tokenizer, await textOf(prompt, answer), prompt.length),
  };
  return { name, writer, template: new ChatTemplate(tokenizer), context, lens, close };
}
