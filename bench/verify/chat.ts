import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { type ChatMessage, ChatTemplate, Tokenizer, type TokenizerJson } from "../../tokenizer/index.ts";
import type { Folder } from "./fixture.ts";
import { compare, type Report, worst } from "./report.ts";

/** Conversations rendered and encoded by transformers with GPT-2's tokenizer and some added tokens. */
export interface ChatFile {
  templates: Record<string, string>;
  added_tokens: Record<string, number>;
  cases: (Record<"template" | "case" | "text", string> &
    Record<"input_ids" | "assistant_masks", number[]> & {
      messages: ChatMessage[];
      add_generation_prompt: boolean;
    })[];
}

export function isChatFile(json: unknown): json is ChatFile {
  return typeof (json as Partial<ChatFile> | null)?.templates === "object";
}

/** Where the tokenizer is, relative to the golden numbers. */
const places = ["..", "../.."].map((up) => `${up}/data/tokenizers/gpt2/tokenizer.json.gz`);

export async function verifyChat(
  report: Report,
  folder: Folder,
  prefix: string,
  file: ChatFile,
): Promise<void> {
  const path = places.map((place) => join(folder.path, place)).find((place) => existsSync(place));
  if (path === undefined) return report.skip(prefix, `needs ${places[1]}`);
  const json: TokenizerJson = JSON.parse(gunzipSync(readFileSync(path)).toString());
  const { added_tokens: added } = json;
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  for (const [content, id] of Object.entries(file.added_tokens).sort(([, a], [, b]) => a - b))
    added.push({ id, content, ...flags });
  const roles = { bos_token: "<|endoftext|>", eos_token: "<|im_end|>", pad_token: "<|pad|>" };
  const tokenizer = new Tokenizer(json, { tokenizer_config: roles });
  const said = (ids: number[], mask: ArrayLike<number>) => {
    const spoken = ids.filter((_, i) => mask[i] === 1);
    return tokenizer.decode(spoken, { skipSpecialTokens: false });
  };
  for (const one of file.cases) {
    await report.check(`${prefix}/${one.template}/${one.case}`, async () => {
      const template = new ChatTemplate(tokenizer, file.templates[one.template]);
      const got = await template.encode(one, { addGenerationPrompt: one.add_generation_prompt });
      const texts = [got.text, said(got.ids, got.assistantMask)];
      const wrong = [one.text, said(one.input_ids, one.assistant_masks)].find((text, i) => text !== texts[i]);
      if (wrong !== undefined) throw new Error(`another text than ${JSON.stringify(wrong)}`);
      // transformers recognises control tokens in a message and kiln does not, so the ids differ.
      const spelled = one.messages.map(({ content }) => content).join();
      if (added.some(({ content }) => spelled.includes(content))) return { error: 0, tolerance: 0 };
      const ids = compare(got.ids, one.input_ids, { atol: 0 }, "ids");
      return worst([ids, compare(got.assistantMask, one.assistant_masks, { atol: 0 }, "mask")]);
    });
  }
}
