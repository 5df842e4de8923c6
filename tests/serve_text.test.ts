import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { TokenLogprob } from "../serve/engine/types.ts";
import { Choice, type ChoiceDelta, type ChoiceOptions, tokenText } from "../serve/text/choice.ts";
import { PromptText } from "../serve/text/prompt_text.ts";
import { StopMatcher } from "../serve/text/stop.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import { fakeTokenizer } from "./serve_fake.ts";
import { bytes, kinds } from "./support/decoder_kinds.ts";

/** What the matcher must let through, by definition: up to the first stop string to be complete. */
function cutAtStop(text: string, stops: readonly string[], include: boolean) {
  for (let end = 1; end <= text.length; end++) {
    const matched = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (matched !== undefined) return { text: text.slice(0, include ? end : end - matched.length), matched };
  }
  return { text, matched: null };
}

const letters = (maxLength: number, minLength = 0) =>
  fc.array(fc.constantFrom("a", "b", "c", "é", "🙂"), { minLength, maxLength }).map((list) => list.join(""));

describe("stop strings", () => {
  it("W17: never leak, and the pieces make no difference", () => {
    fc.assert(
      fc.property(
        fc.array(letters(6), { maxLength: 20 }),
        fc.array(letters(5, 1), { maxLength: 4 }),
        fc.boolean(),
        (pieces, stops, include) => {
          const matcher = new StopMatcher(stops, include);
          const want = cutAtStop(pieces.join(""), stops, include);
          let shown = "";
          for (const piece of pieces) {
            shown += matcher.push(piece);
            expect(want.text.startsWith(shown)).toBe(true);
          }
          if (matcher.matched === null) shown += matcher.flush();
          expect({ text: shown, matched: matcher.matched }).toEqual(want);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("holds back no more than needed", () => {
    const matcher = new StopMatcher(["\n\n"]);
    expect([matcher.push("one\n"), matcher.push("two"), matcher.push("\n"), matcher.push("\nthree")]).toEqual(
      ["one", "\ntwo", "", ""],
    );
    expect(matcher.matched).toBe("\n\n");
  });
});

const token = (id: number): TokenLogprob => ({ id, logprob: -1, rank: 1, top: [[id, -1]] });

/** Gives a choice its tokens one by one, the last with the reason of the end. */
function play(
  tokenizer: Tokenizer,
  prompt: number[],
  generated: number[],
  options: Partial<ChoiceOptions> & { finish?: "stop" | "length" } = {},
) {
  const { finish = "length", ...rest } = options;
  const choice = new Choice(tokenizer, {
    prompt: new PromptText(tokenizer, prompt),
    echo: false,
    logprobs: 1,
    promptLogprobs: null,
    stops: [],
    includeStop: false,
    minTokens: 0,
    ...rest,
  });
  const deltas: ChoiceDelta[] = [];
  if (options.echo) {
    choice.accept({
      token: null,
      scored: prompt.slice(1).map(token),
      finish: null,
      error: null,
      cachedTokens: 0,
    });
  }
  generated.forEach((id, i) => {
    if (choice.finished) return;
    const last = i === generated.length - 1;
    const delta = choice.accept({
      token: token(id),
      scored: [],
      finish: last ? finish : null,
      error: null,
      cachedTokens: 0,
    });
    if (delta !== null) deltas.push(delta);
  });
  const joined = deltas.map(({ text }) => text).join("");
  const tokens = deltas.flatMap(({ logprobs }) => logprobs!.map(({ text }) => text));
  const offsets = deltas.flatMap(({ logprobs }) => logprobs!.map(({ offset }) => offset));
  return { choice, deltas, joined, tokens, offsets };
}

describe("a choice", () => {
  const tokenizer = fakeTokenizer();

  it("W16 W19: joins to the whole decode, without U+FFFD on the way, one log probability per token", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 }), async (text) => {
        const generated = await tokenizer.encode(text, { addSpecialTokens: false });
        const { deltas, joined, tokens } = play(tokenizer, [1], generated);
        expect(joined).toBe(text);
        if (!text.includes("\ufffd"))
          expect(deltas.every((delta) => !delta.text.includes("\ufffd"))).toBe(true);
        expect(tokens).toHaveLength(generated.length);
        if (!tokens.some((one) => one.startsWith("bytes:"))) expect(tokens.join("")).toBe(text);
        expect(deltas.filter(({ finishReason }) => finishReason !== null)).toHaveLength(1);
        expect(deltas.at(-1)!.finishReason).toBe("length");
      }),
      { numRuns: 100 },
    );
  });

  it("cuts text, tokens and finish at a stop string that spans tokens", async () => {
    const generated = await tokenizer.encode("one two STOP three", { addSpecialTokens: false });
    const { choice, deltas, joined, tokens } = play(tokenizer, [1], generated, { stops: ["o S", "ST"] });
    expect(choice.finished).toBe(true);
    expect(joined).toBe("one tw");
    expect(tokens.join("")).toBe("one tw");
    expect(deltas.at(-1)).toMatchObject({ finishReason: "stop", stopReason: "o S" });
    expect(choice.completionTokens).toBeLessThan(generated.length);
  });

  it("cuts a token whose text holds the start of a stop string", async () => {
    const generated = await tokenizer.encode("the dog was", { addSpecialTokens: false });
    expect(generated.some((id) => tokenizer.decode([id]) === " dog")).toBe(true);
    const { joined, tokens } = play(tokenizer, [1], generated, { stops: ["og w"] });
    expect(joined).toBe("the d");
    expect(tokens.at(-1)).toBe(" d");
  });

  it("echoes the prompt with its scores, the first null", async () => {
    const prompt = await tokenizer.encode("once upon", { addSpecialTokens: false });
    const generated = await tokenizer.encode(" a time", { addSpecialTokens: false });
    const { deltas, joined, tokens, offsets } = play(tokenizer, prompt, generated, { echo: true });
    expect(joined).toBe("once upon a time");
    expect(tokens.join("")).toBe(joined);
    const logprobs = deltas.flatMap((delta) => delta.logprobs!.map(({ logprob }) => logprob));
    expect(logprobs).toEqual([null, ...new Array(prompt.length + generated.length - 1).fill(-1)]);
    expect(deltas[0].logprobs![0].top).toEqual([]);
    expect(offsets[0]).toBe(0);
    offsets.forEach((offset, i) => {
      expect(joined.startsWith(tokens[i], offset)).toBe(true);
    });
  });

  it("spells special tokens by their names in the log probabilities, not in the text", () => {
    const stopped = play(tokenizer, [1], [50, 1, 51, 0], { finish: "stop" });
    expect(stopped.tokens).toEqual([tokenizer.decode([50]), "<s>", tokenizer.decode([51]), "<|endoftext|>"]);
    expect(stopped.joined).toBe(tokenizer.decode([50, 51]));
    expect(stopped.offsets).toEqual([0, 1, 1, 2]);
    const top = stopped.deltas.flatMap(({ logprobs }) =>
      logprobs!.map(({ top: [[id]] }) => tokenText(tokenizer, id)),
    );
    expect(top).toEqual(stopped.tokens);
    // A model may have more rows than its tokenizer has tokens.
    expect(play(tokenizer, [1], [tokenizer.vocabSize + 3]).tokens).toEqual([
      `token_id:${tokenizer.vocabSize + 3}`,
    ]);
  });

  it("gives each byte token's character at once, with its own offset, and stops at the first", () => {
    const llama = new Tokenizer(kinds["sentencepiece with byte fallback"]);
    const [once, newline] = ["▁Once", bytes[10]].map((one) => llama.tokenToId(one)!) as [number, number];
    const run = new Array<number>(5).fill(newline);
    const { deltas, offsets } = play(llama, [1], [once, ...run]);
    expect(deltas.map(({ text }) => text)).toEqual(["Once", "\n", "\n", "\n", "\n", "\n"]);
    expect(offsets).toEqual([0, 4, 5, 6, 7, 8]);
    // What is shown of a cut token ends where the text ends, with or without the space before it.
    expect(play(llama, [1], [once], { stops: ["ce"] }).tokens).toEqual([" On"]);
    const { choice, joined } = play(llama, [1, once, newline], run, { stops: ["\n"] });
    expect([joined, choice.completionTokens]).toEqual(["", 1]);
  });

  it("counts stop strings only after min_tokens", async () => {
    const ids = await tokenizer.encode("abxabxabx", { addSpecialTokens: false });
    expect(ids).toHaveLength(9);
    const cut = (minTokens: number, stop = "x") => {
      const { joined, choice } = play(tokenizer, [1], ids, { stops: [stop], minTokens });
      return [joined, choice.completionTokens];
    };
    expect([0, 2, 3, 5, 6, 9].map((minTokens) => cut(minTokens))).toEqual([
      ["ab", 3],
      ["ab", 3],
      ["abxab", 6],
      ["abxab", 6],
      ["abxabxab", 9],
      ["abxabxabx", 9],
    ]);
    // One that is complete only after them counts, wherever it begins.
    expect(cut(4, "abx")).toEqual(["abx", 6]);
  });
});

describe.each(Object.entries(kinds))("an answer with the decoder %s", (_, json) => {
  const tokenizer = new Tokenizer(json);
  const id = fc.nat(tokenizer.vocabSize - 1);
  // Byte tokens often, so that prompts end within characters.
  const character = fc
    .constantFrom("\n", "é", "€", "😀")
    .map((text) => [...Buffer.from(text)].map((byte) => tokenizer.tokenToId(bytes[byte]) ?? 5));
  const ids = fc
    .array(
      fc.oneof(
        id.map((one) => [one]),
        character,
      ),
      { minLength: 1, maxLength: 8 },
    )
    .chain((parts) => fc.nat(3).map((cut) => parts.flat().slice(0, Math.max(1, parts.flat().length - cut))));

  it("is what the whole decode has more than the prompt's, and echo and answer are the whole decode", () => {
    fc.assert(
      fc.property(ids, ids, (prompt, generated) => {
        const whole = [...tokenizer.decode([...prompt, ...generated])];
        const alone = [...tokenizer.decode(prompt)];
        const differs = whole.findIndex((char, i) => char !== alone[i]);
        const want = differs < 0 ? "" : whole.slice(differs).join("");
        expect(play(tokenizer, prompt, generated).joined).toBe(want);
        expect(play(tokenizer, prompt, generated, { echo: true }).joined).toBe(whole.join(""));
      }),
      { numRuns: 150 },
    );
  });

  it("finds stop strings in the answer and never in the prompt", () => {
    fc.assert(
      fc.property(ids, ids, fc.constantFrom("\n", " ", "a", "\uFFFD", "é"), (prompt, generated, stop) => {
        const { joined: free } = play(tokenizer, prompt, generated);
        const { text, matched } = cutAtStop(free, [stop], false);
        for (const echo of [false, true]) {
          const { joined, deltas } = play(tokenizer, prompt, generated, { stops: [stop], echo });
          const shown = play(tokenizer, prompt, generated, { echo }).joined;
          expect(joined).toBe(shown.slice(0, shown.length - free.length) + text);
          expect(deltas.at(-1)!.stopReason).toBe(matched);
        }
      }),
      { numRuns: 100 },
    );
  });
});
