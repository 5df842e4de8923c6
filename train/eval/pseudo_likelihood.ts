import { TextSize } from "../../core/statistics/words.ts";
import { tensor } from "../../core/tensor.ts";
import { crossEntropy } from "../../kernels/index.ts";
import type { Encoder } from "../../models/encoder.ts";
import { configError } from "../../models/formats/validation.ts";
import { TextReader } from "../../models/text_reader.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { TextPart } from "../data/index.ts";
import { type DocumentScore, encodedParts } from "./documents.ts";
import type { SpeedMeter } from "./speed.ts";

/** Tokens of a document that are read together. */
interface Window {
  ids: number[];
  document: TextSize;
  ends: boolean;
}

/** Tokens that masked copies have together before they are computed. */
const most = 2 ** 17;

/**
 * The pseudo-log-likelihood of each document (Salazar et al. 2020), in nats: the sum, over all tokens, of the log-probability of
 * the token where it alone is masked. A document longer than `context`, special tokens included, is cut into windows without
 * overlap. It takes as many passes as there are tokens. Memory does not grow with the data.
 */
export async function* pseudoLikelihoods(
  { model, tokenizer }: { model: Encoder; tokenizer: Tokenizer },
  documents: AsyncIterable<TextPart>,
  context: number,
  meter?: SpeedMeter,
): AsyncGenerator<DocumentScore> {
  const { maskId } = tokenizer;
  if (maskId === null)
    throw configError("the tokenizer has no mask token; give it one in tokenizer_config.json");
  const reader = new TextReader(model, tokenizer);
  const [{ ids, sources }] = await tokenizer.encodeTexts(["a"]);
  const before = ids.slice(0, sources.indexOf(0));
  const after = ids.slice(sources.lastIndexOf(0) + 1);
  const score = async (windows: readonly Window[]) => {
    const copies = windows.flatMap(({ ids }, w) =>
      ids.map((token, i) => {
        const masked = [...before, ...ids.with(i, maskId), ...after];
        return { w, token, ids: masked, place: before.length + i };
      }),
    );
    const losses = await reader.read(
      copies,
      (input, chosen) => {
        const tokens = tensor(
          chosen.map((i) => copies[i].token),
          [chosen.length],
          "i32",
        );
        return crossEntropy(model.logits(input), tokens, { reduction: "none" });
      },
      { places: copies.map(({ place }) => [place]) },
    );
    const sums = windows.map(() => 0);
    copies.forEach(({ w }, i) => {
      sums[w] -= losses[i][0];
    });
    return sums;
  };
  let [logLikelihood, tokens, size] = [0, 0, 0];
  let group: Window[] = [];
  const flush = async () => {
    const begin = performance.now();
    const sums = await score(group);
    const [first] = group;
    const read = group.reduce((sum, window) => sum + window.ids.length, 0);
    if (read > 0) meter?.add(read, performance.now() - begin, () => score([first]));
    const done: DocumentScore[] = [];
    for (const [i, { ids, document, ends }] of group.entries()) {
      logLikelihood += sums[i];
      tokens += ids.length;
      if (!ends) continue;
      done.push({ logLikelihood, tokens, size: document });
      [logLikelihood, tokens] = [0, 0];
    }
    [group, size] = [[], 0];
    return done;
  };
  for await (const window of windows(tokenizer, documents, context - before.length - after.length)) {
    group.push(window);
    size += window.ids.length * (window.ids.length + before.length + after.length);
    if (size >= most) yield* await flush();
  }
  if (group.length > 0) yield* await flush();
}

async function* windows(
  tokenizer: Tokenizer,
  documents: AsyncIterable<TextPart>,
  length: number,
): AsyncGenerator<Window> {
  if (length < 1) throw configError("--context leaves no room beside the special tokens; raise it");
  let open: number[] = [];
  let document = new TextSize();
  for await (const { ids, text, ends } of encodedParts(tokenizer, documents)) {
    document.add(text);
    open = [...open, ...ids];
    while (open.length > length) {
      yield { ids: open.slice(0, length), document, ends: false };
      open = open.slice(length);
    }
    if (!ends) continue;
    yield { ids: open, document, ends };
    [open, document] = [[], new TextSize()];
  }
}
