import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type CleanOptions, cleanModes, cleanText } from "../tokenizer/text/clean.ts";
import { languageTeller } from "../tokenizer/text/language.ts";
import { repairMojibake } from "../tokenizer/text/mojibake.ts";
import { forEachNearPair, jaccard, shinglesOf, starsOf } from "../tokenizer/text/near_duplicates.ts";
import { wordsOf } from "../tokenizer/text/normalise.ts";
import { distinctWords, isEcho, isRefusal, repetition, symbolShare } from "../tokenizer/text/quality.ts";
import { privateKinds } from "../tokenizer/text/redact.ts";

const rows = readFileSync(join(import.meta.dirname, "fixtures/cleaning/golden.txt"), "utf8")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));

const everyMode = (mode: string) => Object.fromEntries(privateKinds.map((kind) => [kind, mode]));

function golden(row: string): { from: string; to: string; options: CleanOptions } {
  const [, given = "", from, to] = row.match(/^(?:\{(.*?)\} )?(".*") -> (.*)$/)!;
  const { region, mode } = Object.fromEntries(given.split(",").map((pair) => pair.split("=")));
  const options = { region, ...(mode && { modes: everyMode(mode) }) };
  return { from: JSON.parse(from), to: to === "same" ? JSON.parse(from) : JSON.parse(to), options };
}

/** What rules look for, so that random texts are often what they act on. */
const parts = [
  ...[
    "a@b.com",
    "bob at x dot com",
    "[at]",
    "https://x.io/a(b)",
    "www.x.org",
    "http://",
    "@",
    ".",
    "....",
    "!!!!",
  ],
  ...["+1 415 555 2671", "0044 20 7946 0958", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"],
  ...[
    "sk-abcdefghijklmnopqrstuvwx12",
    "`",
    "```",
    "~~~",
    "\n",
    "\r",
    " ",
    "\t",
    "â€™",
    "Ã",
    "ƒ",
    "Â",
    "ğŸš€",
    "ï¸",
  ],
  ...[
    "\ud83d",
    "é",
    "\u00a0",
    "»",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    "\u200b",
    "0",
    "15",
    "-",
    "ﬁ",
    "\u0301",
    "اب",
  ],
  ...["日本", "и", "…", "x", "\u0001", "\ufdd0", "\ufdd1", "*", "_"],
];
const text = fc.oneof(
  fc.array(fc.constantFrom(...parts), { maxLength: 30 }).map((found) => found.join("")),
  fc.string({ unit: "binary" }),
  fc.string(),
);
const mode = fc.constantFrom(...cleanModes);
const modes = fc.record({ secret: mode, url: mode, email: mode, iban: mode, card: mode, phone: mode });

describe("cleaning a text", () => {
  it("has 200 golden rows", () => expect(new Set(rows).size).toBe(200));

  it.each(rows)("%s", (row) => {
    const { from, to, options } = golden(row);
    const { text: cleaned, changes } = cleanText(from, options);
    expect(cleaned).toBe(to);
    // What is counted as left, or kept because the whole text is to be dropped, is no change.
    const rules = changes.filter(({ rule }) => rule !== "mojibake_left");
    expect(rules.length > 0).toBe(from !== to);
  });

  it("changes nothing the second time, and never throws", () => {
    fc.assert(
      fc.property(text, modes, (given, chosen) => {
        const options = { modes: chosen };
        const once = cleanText(given, options).text;
        expect(cleanText(once, options).text).toBe(once);
      }),
      { numRuns: 3000 },
    );
  });

  it("leaves code as it is, but for secrets", () => {
    const prose = fc.stringMatching(/^[a-z ,.]{0,20}$/);
    const code = fc.stringMatching(/^[a-z0-9 ={}()@./:-]{1,40}$/).filter((line) => !/sk-|hf_/.test(line));
    fc.assert(
      fc.property(prose, code, prose, (before, inside, after) => {
        const block = `\n\`\`\`js\n${inside}\n\`\`\`\n`;
        expect(cleanText(`${before}${block}${after}`).text).toContain(block);
      }),
    );
  });

  it("says what it changed, and marks what is to be dropped", () => {
    expect(cleanText("a@b.com and c@d.org,  ok").changes).toEqual([
      { rule: "email", count: 2, from: "a@b.com", to: "[EMAIL]" },
      { rule: "spacing", count: 1, from: "L],  ok", to: "L], ok" },
    ]);
    expect(cleanText("ğŸ¯ goal").changes).toEqual([
      { rule: "mojibake_left", count: 1, from: "ğŸ¯", to: "ğŸ¯" },
    ]);
    expect(cleanText("mail a@b.com", { modes: { email: "drop" } })).toEqual({
      text: "mail a@b.com",
      changes: [],
      drop: "email",
    });
  });

  it("repairs each text that was read in a one-byte encoding, whole", () => {
    const high1252 = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ";
    const misread = (sound: string) =>
      [...Buffer.from(sound)]
        .map((byte) => (byte >= 128 && byte < 160 ? high1252[byte - 128] : String.fromCharCode(byte)))
        .join("");
    for (const sound of [
      "Größe — “naïve” café ½",
      "Привет, мир",
      "こんにちは世界",
      "😀🚀 ok",
      "Ελληνικά",
      "नमस्ते",
    ]) {
      expect(repairMojibake(misread(sound)).text).toBe(sound);
      expect(repairMojibake(misread(misread(sound))).text).toBe(sound);
      expect(repairMojibake(sound)).toEqual({ text: sound, repairs: 0, left: [] });
    }
  });

  const prose = join(import.meta.dirname, "../../shared/data/text");
  it.skipIf(!existsSync(prose))("finds no mojibake in sound text (skipped: no ../shared/data)", () => {
    const sound = gunzipSync(readFileSync(join(prose, "wikitext2_valid.txt.gz"))).toString();
    expect(repairMojibake(sound).repairs).toBe(0);
  });
});

describe("near duplicates", () => {
  const pairs: [string, string, number][] = [
    ["What is machine learning?", "what is machine learning", 1],
    ["How do I reset my password on the website?", "How do I reset my password on the web site?", 0.667],
    ["Please summarize the following text", "Please translate the following text", 0.2],
    ["I like cats", "I like dogs", 0],
  ];
  it.each(pairs)("%s / %s", (a, b, want) => {
    expect(jaccard(shinglesOf(wordsOf(a)), shinglesOf(wordsOf(b)))).toBeCloseTo(want, 3);
  });

  const set = fc
    .array(fc.constantFrom(..."abcdefghijkl"), { maxLength: 12 })
    .map((letters) => new Set(letters));
  const sets = fc.array(set, { maxLength: 20 });
  const threshold = fc.constantFrom(0.1, 0.5, 0.6, 0.8, 1);

  it("are all pairs that a comparison of each with each finds", () => {
    fc.assert(
      fc.property(sets, threshold, (all, least) => {
        const found = new Set<string>();
        forEachNearPair(all, least, (later, earlier) => found.add(`${later} ${earlier}`));
        const want = all.flatMap((a, i) =>
          all.slice(0, i).flatMap((b, j) => (jaccard(a, b) >= least ? [`${i} ${j}`] : [])),
        );
        expect([...found].sort()).toEqual(want.sort());
      }),
      { numRuns: 1000 },
    );
  });

  it("are stars: each is near its centre, and no two centres are near each other", () => {
    fc.assert(
      fc.property(sets, threshold, (all, least) => {
        const centres = starsOf(all, least);
        const own = all.flatMap((_, i) => (centres[i] === i ? [i] : []));
        for (const [i, centre] of centres.entries())
          if (centre !== i)
            expect([centres[centre], centre < i, jaccard(all[i], all[centre]) >= least]).toEqual([
              centre,
              true,
              true,
            ]);
        for (const a of own)
          for (const b of own) if (a !== b) expect(jaccard(all[a], all[b])).toBeLessThan(least);
      }),
      { numRuns: 500 },
    );
  });
});

describe("measures of quality", () => {
  it("tell words, repetition and symbols", () => {
    expect(wordsOf("Ｈｅｌｌｏ, straße! 日本 हिन्दी")).toEqual(["hello", "straße", "日", "本", "हिन्दी"]);
    expect(distinctWords("a b c")).toBeNull();
    expect(distinctWords("a b ".repeat(10))).toBe(0.1);
    expect(repetition("one two three four five six")).toEqual({ duplicated: 0, top: 0 });
    expect(repetition("a b c d e ".repeat(2)).duplicated).toBe(1);
    // The run "a b" twice, two letters each, of six.
    expect(repetition("a b c a b d")).toEqual({ duplicated: 0, top: 4 / 6 });
    expect(symbolShare("ab!?")).toBe(0.5);
    expect(symbolShare("ab `!!!!`")).toBe(0);
  });

  it("know refusals and echoes", () => {
    expect(isRefusal("I'm sorry, but I can't assist with that request.")).toBe(true);
    expect(isRefusal("As an AI language model, I have no opinions.")).toBe(true);
    expect(isRefusal("I cannot help with that.")).toBe(true);
    expect(isRefusal("I'm sorry to hear that. Have you tried turning it off and on?")).toBe(false);
    expect(isEcho("What is this?", "what is this")).toBe(true);
    expect(isEcho("What is this?", "This is a test")).toBe(false);
  });

  it("tell the language of what is long enough", async () => {
    const languageOf = await languageTeller();
    expect(languageOf("Der schnelle braune Fuchs springt über den faulen Hund")).toBe("deu");
    expect(languageOf("The quick brown fox jumps over the lazy dog near the river")).toBe("eng");
    expect(languageOf("ok, fine")).toBe("und");
  });
});
