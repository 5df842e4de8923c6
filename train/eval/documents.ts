import type { TextSize } from "../../core/statistics/words.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { TextPart } from "../data/index.ts";

/** A document and the log-likelihood of its tokens, in nats. */
export interface DocumentScore {
  logLikelihood: number;
  tokens: number;
  size: TextSize;
}

/** Characters that are encoded at once. */
const longestText = 2 ** 18;

/** The ids of documents, part by part, so that no long document is encoded at once. */
export async function* encodedParts(tokenizer: Tokenizer, documents: AsyncIterable<TextPart>) {
  const options = { addSpecialTokens: false };
  let open = "";
  for await (const { text, ends } of documents) {
    open += text;
    while (open.length > longestText) {
      const { end, next } = await tokenizer.cut(open, longestText, options);
      const ids = await tokenizer.encode(open.slice(0, end), options);
      yield { ids, text: open.slice(0, next), ends: false };
      open = open.slice(next);
    }
    if (!ends) continue;
    yield { ids: await tokenizer.encode(open, options), text: open, ends };
    open = "";
  }
}

/** Documents as one text each. */
export async function* wholeTexts(documents: AsyncIterable<TextPart>): AsyncGenerator<string> {
  let open = "";
  for await (const { text, ends } of documents) {
    open += text;
    if (!ends) continue;
    yield open;
    open = "";
  }
}
