import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Choice, type ChoiceDelta } from "../serve/choice.ts";
import { StopMatcher } from "../serve/stop.ts";
import type { TokenLogprob } from "../serve/types.ts";
import { fakeTokenizer } from "./serve_fake.ts";

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

describe("stop strings (I15)", () => {
  it("never leak, and the pieces make no difference", () => {
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

describe("a choice", () => {
  const tokenizer = fakeTokenizer();
  const token = (id: number): TokenLogprob => ({ id, logprob: -1, top: [[id, -1]] });

  function play(prompt: number[], generated: number[], options: { stops?: string[]; echo?: string } = {}) {
    const choice = new Choice(tokenizer, {
      prompt,
      echo: options.echo ?? null,
      logprobs: true,
      stops: options.stops ?? [],
      includeStop: false,
      skipSpecialTokens: true,
    });
    const deltas: ChoiceDelta[] = [];
    if (options.echo !== undefined)
      choice.accept({ token: null, scored: prompt.slice(1).map(token), finish: null, error: null });
    generated.forEach((id, i) => {
      if (choice.finished) return;
      const delta = choice.accept({
        token: token(id),
        scored: [],
        finish: i === generated.length - 1 ? "length" : null,
        error: null,
      });
      if (delta !== null) deltas.push(delta);
    });
    const joined = deltas.map(({ text }) => text).join("");
    const tokens = deltas.flatMap(({ logprobs }) => logprobs!.tokens);
    const offsets = deltas.flatMap(({ logprobs }) => logprobs!.text_offset);
    return { choice, deltas, joined, tokens, offsets };
  }

  it("joins to the whole decode, without U+FFFD on the way (W16), one log probability per token (W19)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 }), async (text) => {
        const generated = await tokenizer.encode(text, { addSpecialTokens: false });
        const { deltas, joined, tokens } = play([1], generated);
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

  it("cuts text, tokens and finish at a stop string that spans tokens (W17)", async () => {
    const generated = await tokenizer.encode("one two STOP three", { addSpecialTokens: false });
    const { choice, deltas, joined, tokens } = play([1], generated, { stops: ["o S", "ST"] });
    expect(choice.finished).toBe(true);
    expect(joined).toBe("one tw");
    expect(tokens.join("")).toBe("one tw");
    expect(deltas.at(-1)).toMatchObject({ finishReason: "stop", stopReason: "o S" });
    expect(choice.completionTokens).toBeLessThan(generated.length);
  });

  it("cuts a token whose text holds the start of a stop string", async () => {
    const generated = await tokenizer.encode("the dog was", { addSpecialTokens: false });
    expect(generated.some((id) => tokenizer.decode([id]) === " dog")).toBe(true);
    const { joined, tokens } = play([1], generated, { stops: ["og w"] });
    expect(joined).toBe("the d");
    expect(tokens.at(-1)).toBe(" d");
  });

  it("echoes the prompt with its scores, the first null (W23)", async () => {
    const prompt = await tokenizer.encode("once upon", { addSpecialTokens: false });
    const generated = await tokenizer.encode(" a time", { addSpecialTokens: false });
    const { deltas, joined, tokens, offsets } = play(prompt, generated, { echo: "once upon" });
    expect(joined).toBe("once upon a time");
    expect(tokens.join("")).toBe(joined);
    const logprobs = deltas.flatMap((delta) => delta.logprobs!.token_logprobs);
    expect(logprobs).toEqual([null, ...new Array(prompt.length + generated.length - 1).fill(-1)]);
    expect(deltas[0]!.logprobs!.top_logprobs[0]).toBeNull();
    expect(offsets[0]).toBe(0);
    offsets.forEach((offset, i) => {
      expect(joined.startsWith(tokens[i]!, offset)).toBe(true);
    });
  });
});
