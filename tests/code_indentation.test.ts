import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import * as fc from "fast-check";
import { afterAll, expect, it } from "vitest";
import { parseTranscript } from "../tokenizer/chat/transcript.ts";
import { ChatTemplate, PLAIN_TURNS, Tokenizer, trainBpe, withChatTemplate } from "../tokenizer/index.ts";
import { chatBatch, packExamples, readChatData } from "../train/data/index.ts";
import { IGNORE } from "../train/data/packing.ts";

/** Code keeps its indentation from the file to the targets of training; that a model writes it again is in fine_tune.slow. */

const folder = mkdtempSync(path.join(tmpdir(), "kiln-indent-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const eos = "<|endoftext|>";
const learned = [
  "def add(a, b):\n    if a:\n        return a + b\n    return b\n",
  "\tfor i in x:\n\t\tpass\n",
];
const tokenizer = new Tokenizer(trainBpe(learned, { vocab_size: 300, special_tokens: [eos] }), {
  tokenizer_config: { eos_token: eos },
});
const templates = {
  chatml: new ChatTemplate(withChatTemplate(tokenizer)),
  plain: new ChatTemplate(tokenizer, PLAIN_TURNS),
};

/** Lines of any indentation by spaces and tabs, empty ones and those with space at their end among them. */
const line = fc
  .tuple(
    fc.constantFrom("", "  ", "    ", "        ", "   ", "\t", "\t\t", " \t", "            "),
    fc.constantFrom("def f(x):", "return x", "if a > b:", "'a  b'", "# note  ", "x = [1,\t2]", ""),
  )
  .map((parts) => parts.join(""));
const codes = fc
  .array(line, { minLength: 1, maxLength: 12 })
  .map((lines) => lines.join("\n"))
  .filter((code) => code.trim() !== "");

it("tokens give code back as it was (property)", async () => {
  await fc.assert(
    fc.asyncProperty(codes, async (code) => {
      expect(tokenizer.decode(await tokenizer.encode(code, { addSpecialTokens: false }))).toBe(code);
    }),
  );
});

it.each(["chatml", "plain"] as const)(
  "rows of %s teach it as it was, from every kind of file (property)",
  async (name) => {
    const template = templates[name];
    const own = name === "chatml" ? withChatTemplate(tokenizer) : tokenizer;
    await fc.assert(
      fc.asyncProperty(fc.array(codes, { minLength: 1, maxLength: 4 }), async (all) => {
        const rows = all.map((code) => ({
          messages: [
            { role: "user", content: `write\n${code}` },
            { role: "assistant", content: code },
          ],
        }));
        const jsonl = path.join(folder, "code.jsonl");
        writeFileSync(jsonl, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
        const csv = path.join(folder, "code.csv");
        const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
        writeFileSync(csv, ["prompt,response", ...all.map((code) => `write,${quoted(code)}`)].join("\n"));
        for (const file of [jsonl, csv]) {
          const { examples } = await readChatData([file], template, 4096);
          const taught = packExamples(examples, 4096).flatMap((row) => {
            const { tokens, targets, segments } = chatBatch([row], 4096);
            return row.map((_, segment) => {
              const ids = [...targets].filter((id, i) => segments[i] === segment && id !== IGNORE);
              expect(tokens.length).toBe(4096);
              return own.decode(ids, { skipSpecialTokens: true });
            });
          });
          const expected = all.map((code) => (name === "plain" ? `\n${code}` : code));
          expect(taught.sort()).toEqual(expected.sort());
        }
      }),
      { numRuns: 20 },
    );
  },
);

it("an answer begins with the token that a model is asked for, also where its code is indented", async () => {
  const asked = { messages: [{ role: "user" as const, content: "go on" }] };
  for (const template of Object.values(templates)) {
    const { ids: prompt } = await template.encode(asked, { addGenerationPrompt: true });
    const content = "    return x\n";
    const whole = { messages: [...asked.messages, { role: "assistant" as const, content }] };
    const { ids, assistantMask } = await template.encodeForTraining(whole);
    expect(ids.slice(0, prompt.length)).toEqual(prompt);
    expect(assistantMask.indexOf(1)).toBe(prompt.length);
  }
});

it("a text with turns keeps the indentation of one that begins on its own line", () => {
  const text = "User: go on\nAssistant:\n\n    return x\n        + 1\n\nUser:   spaced\nAssistant: yes  ";
  expect(parseTranscript(text).map(({ content }) => content)).toEqual([
    ...["go on", "    return x\n        + 1", "spaced", "yes"],
  ]);
});
