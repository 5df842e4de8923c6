import { ChatTemplate, type Tokenizer } from "../../tokenizer/index.ts";
import { packExamples, type ReadChat, readChatData, readChats } from "./chat_rows.ts";

/** Conversations that a preview shows. */
const shown = 3;

/**
 * The first conversations of files as the model reads them, with what is learned of them in green or, without colours, in
 * double brackets; then how many there are. Throws what `readChats` throws.
 */
export async function previewChats(
  paths: readonly string[],
  tokenizer: Tokenizer,
  { longest, colours }: { longest: number; colours: boolean },
): Promise<string> {
  const template = new ChatTemplate(tokenizer);
  const parts: string[] = [];
  for await (const chat of readChats(paths, template)) {
    if (chat) parts.push(`--- ${chat.where}\n${marked(chat, tokenizer, colours)}`);
    if (parts.length === shown) break;
  }
  const { examples, tooLong, empty, supervised } = await readChatData(paths, template, longest);
  const number = (count: number) => count.toLocaleString("en");
  const rows = packExamples(examples, longest).length;
  return `${parts.join("\n")}
--- ${colours ? "green" : "[[ ]]"}: what is learned
conversations        ${number(examples.length + tooLong + empty)}
  longer than ${`${longest},`.padEnd(6)} ${number(tooLong)} (left out)
  with an empty turn ${number(empty)} (left out)
supervised tokens    ${number(supervised)}
rows of ${`${longest}`.padEnd(12)} ${number(rows)}
`;
}

/** The text of the tokens, in runs of the same mask: what is shown is what is learned, to the token. */
function marked({ ids, assistantMask }: ReadChat, tokenizer: Tokenizer, colours: boolean): string {
  const [open, close] = colours ? ["\x1b[32m", "\x1b[0m"] : ["[[", "]]"];
  let text = "";
  for (let start = 0, end = 0; start < ids.length; start = end) {
    while (end < ids.length && assistantMask[end] === assistantMask[start]) end++;
    const run = tokenizer.decode(ids.slice(start, end), { skipSpecialTokens: false });
    text += assistantMask[start] ? open + run + close : run;
  }
  return text;
}
