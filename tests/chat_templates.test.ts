import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  CHATML,
  type ChatMessage,
  ChatTemplate,
  type Conversation,
  ConversationError,
  Tokenizer,
  type TokenizerJson,
  trainBpe,
} from "../tokenizer/index.ts";

const fixture = (name: string) =>
  JSON.parse(readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8"));
/** ../shared/golden/more/chat.json: transformers' apply_chat_template with GPT-2's tokenizer. */
const golden: {
  templates: Record<string, string>;
  added_tokens: Record<string, number>;
  cases: {
    template: string;
    case: string;
    messages: ChatMessage[];
    add_generation_prompt: boolean;
    text: string;
    input_ids: number[];
    assistant_masks: number[];
  }[];
} = fixture("chat.json");
/** Text and generation blocks (in code points) by jinja2 3 with the extension of transformers; no template: `CHATML`. */
const jinja: {
  messages: ChatMessage[];
  cases: (Conversation & {
    template: string | null;
    add_generation_prompt?: boolean;
    text: string;
    spans: [number, number][];
  })[];
} = fixture("chat_jinja.json");

const specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const small = new Tokenizer(
  trainBpe(["the user and the assistant say hello to the system"], {
    vocab_size: 290,
    special_tokens: specials,
  }),
  { tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|im_end|>" } },
);
const data = join(import.meta.dirname, "../../shared/data/tokenizers");
const needsData = "skipped: no ../shared/data";
const unzipped = (path: string) => JSON.parse(gunzipSync(readFileSync(join(data, path))).toString());

const ask = (content: string): ChatMessage => ({ role: "user", content });
const answer = (content: string, weight?: number): ChatMessage => ({
  role: "assistant",
  content,
  ...(weight !== undefined && { weight }),
});
/** What a model learns of it. */
const learned = (
  tokenizer: Tokenizer,
  { ids, assistantMask }: { ids: number[]; assistantMask: Uint8Array },
) =>
  tokenizer.decode(
    ids.filter((_, i) => assistantMask[i] === 1),
    { skipSpecialTokens: false },
  );

describe("chat templates", () => {
  it("give transformers' text; what the assistant says is marked, turn-end token included", async () => {
    for (const one of golden.cases) {
      const template = new ChatTemplate(small, golden.templates[one.template]);
      const options = { addGenerationPrompt: one.add_generation_prompt };
      const encoded = await template.encode(one, options);
      expect(encoded.text).toBe(one.text);
      const said = one.messages
        .filter(({ role }) => role === "assistant")
        .map(({ content }) => content.trim());
      expect(
        learned(small, encoded)
          .split("<|im_end|>")
          .map((turn) => turn.trim()),
      ).toEqual([...said, ""]);
      expect(small.decode(encoded.ids, { skipSpecialTokens: false })).toBe(one.text);
    }
  });

  it.skipIf(!existsSync(data))(
    `give transformers' ids and assistant masks with GPT-2's tokenizer (${needsData})`,
    async () => {
      const json: TokenizerJson = unzipped("gpt2/tokenizer.json.gz");
      const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
      const added = Object.entries(golden.added_tokens).sort(([, a], [, b]) => a - b);
      json.added_tokens.push(...added.map(([content, id]) => ({ id, content, ...plain })));
      const tokenizer = new Tokenizer(json, {
        tokenizer_config: { bos_token: "<|endoftext|>", eos_token: "<|im_end|>", pad_token: "<|pad|>" },
      });
      for (const one of golden.cases) {
        const template = new ChatTemplate(tokenizer, golden.templates[one.template]);
        const encoded = await template.encode(one, { addGenerationPrompt: one.add_generation_prompt });
        const { ids, assistantMask } = encoded;
        const theirs = { ids: one.input_ids, assistantMask: Uint8Array.from(one.assistant_masks) };
        expect(learned(tokenizer, encoded)).toBe(learned(tokenizer, theirs));
        // transformers takes control tokens spelled in a message for such.
        const count = (list: number[]) => list.filter((id) => tokenizer.isSpecial(id)).length;
        if (one.case === "control") expect(count(ids)).toBeLessThan(count(one.input_ids));
        else
          expect({ ids, mask: [...assistantMask] }).toEqual({
            ids: one.input_ids,
            mask: one.assistant_masks,
          });
      }
    },
  );

  it("trim white space around generation blocks as jinja2 does, and the default template is the same there", () => {
    for (const one of jinja.cases) {
      const template = new ChatTemplate(small, one.template ?? CHATML);
      const conversation = {
        messages: one.messages ?? jinja.messages,
        ...(one.tools && { tools: one.tools }),
      };
      const options = { addGenerationPrompt: one.add_generation_prompt ?? false };
      const { text, spans } = template.render(conversation, options);
      expect(text).toBe(one.text);
      const points = spans.map((span) => span.map((at) => [...text.slice(0, at)].length));
      expect(points, JSON.stringify(one.template)).toEqual(one.spans);
    }
  });

  const bits = [
    "<|im_end|>",
    "<|im_start|>",
    "<|im_",
    "end|>",
    "<",
    "|>",
    "<|endoftext|",
    ">",
    " ",
    "\n",
    "a",
    "é",
    "😀",
    "\ue000",
    "\ufdd0",
  ];
  const content = fc.array(fc.constantFrom(...bits), { maxLength: 6 }).map((parts) => parts.join(""));

  it("take nothing in a message for a special token, whatever is spelled there or comes about", async () => {
    const joined = "{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}";
    await fc.assert(
      fc.asyncProperty(
        fc.array(content, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (texts, isChat) => {
          const messages = texts.map((text, i) => (i % 2 === 0 ? ask(text) : answer(text)));
          const { text, ids } = await new ChatTemplate(small, isChat ? CHATML : joined).encode({ messages });
          const wanted = isChat ? texts.length * 2 : 1;
          expect(ids.filter((id) => small.isSpecial(id)).length).toBe(wanted);
          const spelled = isChat
            ? messages.map((one) => `<|im_start|>${one.role}\n${one.content}<|im_end|>\n`).join("")
            : `${texts.join("")}<|im_end|>`;
          expect(text).toBe(spelled);
          expect(small.decode(ids, { skipSpecialTokens: false })).toBe(spelled);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("mark the same turns where there are no generation blocks", async () => {
    const bare = CHATML.replaceAll(/\{% (end)?generation %\}/g, "");
    expect(bare).not.toContain("generation %}");
    const messages = [ask("Hi"), answer("Hello <|im_end|>"), ask("a"), answer(" b\n")];
    const [with_, without] = [new ChatTemplate(small), new ChatTemplate(small, bare)];
    expect(await without.encodeForTraining({ messages })).toEqual(
      await with_.encodeForTraining({ messages }),
    );
    const forgetful = `{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content + eos_token }}{% endif %}{% endfor %}`;
    await expect(new ChatTemplate(small, forgetful).encodeForTraining({ messages })).rejects.toThrow(
      /does not say which part is the assistant's/,
    );
  });

  it("leave turns of weight 0 out of what is learned", async () => {
    const messages = [ask("a"), answer("first", 0), ask("b"), answer("second")];
    const template = new ChatTemplate(small);
    expect(learned(small, await template.encodeForTraining({ messages }))).toBe("second<|im_end|>");
    expect(learned(small, await template.encode({ messages }))).toBe("first<|im_end|>second<|im_end|>");
    const nothing = { messages: [ask("a"), answer("first", 0)] };
    await expect(template.encodeForTraining(nothing)).rejects.toThrow(/nothing to learn/);
    await expect(template.encodeForTraining({ messages: [ask("a")] })).rejects.toThrow(/nothing to learn/);
  });

  it("are refused for training where the assistant would never learn to stop", async () => {
    const messages = [ask("a"), answer("b")];
    const outside = CHATML.replace(
      "{{ '<|im_end|>' }}{% endgeneration %}",
      "{% endgeneration %}{{ '<|im_end|>' }}",
    );
    const error =
      /ends the assistant's turn with "b", not with a token that ends generation \(<\|im_end\|>\)/;
    await expect(new ChatTemplate(small, outside).encodeForTraining({ messages })).rejects.toThrow(error);
    const other = new Tokenizer(small.json, { tokenizer_config: { eos_token: "<|endoftext|>" } });
    await expect(new ChatTemplate(other).encodeForTraining({ messages })).rejects.toThrow(
      /"<\|im_end\|>", not with/,
    );
    // A line end after the stop token may be learned, too.
    const inside = CHATML.replace("{% endgeneration %}{{ '\\n' }}", "{{ '\\n' }}{% endgeneration %}");
    const encoded = await new ChatTemplate(small, inside).encodeForTraining({ messages });
    expect(learned(small, encoded)).toBe("b<|im_end|>\n");
  });

  it("say in one line what they do not take", () => {
    const cases: [string, RegExp][] = [
      [
        "{{ raise_exception('roles must alternate') }}",
        /^the chat template refuses this conversation: roles must alternate$/,
      ],
      [
        "{% for m in messages %}",
        /^the chat template cannot be parsed: .*; correct chat_template\.jinja, or chat_template in/,
      ],
      ["{{ messages | nonsense }}", /^the chat template refuses this conversation: .*nonsense/],
    ];
    for (const [source, message] of cases) {
      const render = () => new ChatTemplate(small, source).render({ messages: [ask("a")] });
      expect(render).toThrow(ConversationError);
      expect(render).toThrow(message);
    }
    expect(() => new ChatTemplate(small).render({ messages: [] })).toThrow(/at least one message/);
  });

  it("come from the tokenizer, from a list of named ones too", () => {
    const templates = [
      { name: "tool_use", template: "x" },
      { name: "default", template: "{{ messages[0].content }}!" },
    ];
    const tokenizer = new Tokenizer(small.json, { tokenizer_config: { chat_template: templates } });
    expect(new ChatTemplate(tokenizer).render({ messages: [ask("a")] }).text).toBe("a!");
    expect(new ChatTemplate(small).source).toBe(CHATML);
  });
});

describe("texts in pieces", () => {
  const text = fc.string({ unit: "grapheme", maxLength: 20 });
  const piece = fc.oneof(text, fc.constantFrom("<|im_end|>", " ", "the user"), fc.nat(2));

  it("have the ids of the whole text, and ranges that cover it", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 6 }), async (pieces) => {
        const { ids, ranges } = await small.encodePieces(pieces);
        const whole = pieces.map((one) => (typeof one === "string" ? one : small.idToToken(one))).join("");
        const spells = pieces.some(
          (one) => typeof one === "string" && specials.some((name) => one.includes(name)),
        );
        const formed = specials.reduce((sum, name) => sum + whole.split(name).length - 1, 0);
        const isPlain = !spells && formed === pieces.filter((one) => typeof one === "number").length;
        if (isPlain) expect(ids).toEqual(await small.encode(whole, { addSpecialTokens: false }));
        expect(small.decode(ids, { skipSpecialTokens: false })).toBe(whole);
        const points = [...whole];
        let reached = 0;
        for (const [i, [start, end]] of ranges.entries()) {
          expect(start).toBeLessThanOrEqual(reached);
          reached = end;
          if (small.isSpecial(ids[i]))
            expect(points.slice(start, end).join("")).toBe(small.idToToken(ids[i]));
        }
        expect(reached).toBe(points.length);
      }),
      { numRuns: 300 },
    );
    await expect(small.encodePieces([300])).rejects.toThrow(/300 is no special token/);
  });

  it.skipIf(!existsSync(data))(
    `keep ids of BERT's tokenizer, whose special tokens are words of its vocabulary (${needsData})`,
    async () => {
      const bert = new Tokenizer(unzipped("bert/tokenizer.json.gz"));
      const [cls, sep] = ["[CLS]", "[SEP]"].map((name) => bert.tokenToId(name)!);
      const { ids, ranges } = await bert.encodePieces([cls, "Héllo wörld ", sep, "[SEP] again", sep]);
      expect(ids.filter((id) => bert.isSpecial(id))).toEqual([cls, sep, sep]);
      const inner = await bert.encode("Héllo wörld", { addSpecialTokens: false });
      expect(ids.slice(0, 2 + inner.length)).toEqual([cls, ...inner, sep]);
      const whole = [..."[CLS]Héllo wörld [SEP][SEP] again[SEP]"];
      expect(whole.slice(...ranges[1 + inner.length]).join("")).toBe("[SEP]");
      expect(whole.slice(...ranges.at(-1)!).join("")).toBe("[SEP]");
    },
  );

  it("no name of a special token is left in a message where names lie in or across each other", async () => {
    const special_tokens = ["<a>", "<<a>>", "a><", "|<a>"];
    const odd = new Tokenizer(trainBpe(["abc"], { vocab_size: 300, special_tokens }));
    const template = new ChatTemplate(odd, "{% for m in messages %}<<a>>{{ m.content }}{% endfor %}");
    const word = fc.constantFrom("<", "<a>", "a>", ">", "|", "a", "<<a");
    await fc.assert(
      fc.asyncProperty(
        fc.array(word, { maxLength: 8 }),
        fc.array(word, { maxLength: 8 }),
        async (one, two) => {
          const contents = [one.join(""), two.join("")];
          const { text, pieces } = template.render({ messages: contents.map(ask) });
          expect(text).toBe(contents.map((content) => `<<a>>${content}`).join(""));
          const names = pieces.filter((piece) => typeof piece === "number").map((id) => odd.idToToken(id));
          expect(names).toEqual(["<<a>>", "<<a>>"]);
        },
      ),
    );
  });
});
