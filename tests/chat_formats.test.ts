import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type ChatFormatName,
  type Conversation,
  ConversationError,
  chatFormatNames,
  checkConversation,
  detectChatFormat,
  type Row,
  readConversation,
  readConversations,
  writeConversation,
} from "../tokenizer/index.ts";

const ask = (content: string) => ({ role: "user" as const, content });
const answer = (content: string) => ({ role: "assistant" as const, content });
const system = (content: string) => ({ role: "system" as const, content });
const call = { type: "function" as const, function: { name: "add", arguments: { a: 1 } } };

/** Rows as the field writes them, with the conversation that each is. */
const rows: Record<string, [ChatFormatName, Row, Conversation]> = {
  "openai with parts, a developer, tools and nulls": [
    "openai",
    {
      id: 7,
      messages: [
        {
          role: "developer",
          content: [
            { type: "text", text: "Be " },
            { type: "text", text: "brief." },
          ],
        },
        { role: "user", content: "1 + 1?", name: null },
        {
          role: "assistant",
          content: null,
          tool_calls: [{ ...call, id: "c", function: { name: "add", arguments: '{"a":1}' } }],
        },
        { role: "tool", content: "2", tool_call_id: "c" },
        { role: "assistant", content: "2", weight: 0, reasoning_content: "easy" },
      ],
      tools: [{ name: "add", parameters: {} }],
    },
    {
      messages: [
        system("Be brief."),
        ask("1 + 1?"),
        { role: "assistant", content: "", tool_calls: [{ ...call, id: "c" }] },
        { role: "tool", content: "2", tool_call_id: "c" },
        { ...answer("2"), weight: 0, ...{ reasoning_content: "easy" } },
      ],
      tools: [{ type: "function", function: { name: "add", parameters: {} } }],
      metadata: { id: 7 },
    },
  ],
  "openai's old function calls": [
    "openai",
    {
      messages: [
        ask("?"),
        { role: "assistant", content: null, function_call: { name: "add", arguments: '{"a":1}' } },
      ],
    },
    { messages: [ask("?"), { ...answer(""), tool_calls: [call] }] },
  ],
  "sharegpt with a system prompt and calls": [
    "sharegpt",
    {
      system: "Be brief.",
      conversations: [
        { from: "human", value: "?" },
        { from: "function_call", value: '{"name": "add", "arguments": {"a": 1}}' },
        { from: "observation", value: "2" },
        { from: "gpt", value: "2" },
      ],
      tools: '[{"name": "add"}]',
    },
    {
      messages: [
        system("Be brief."),
        ask("?"),
        { ...answer(""), tool_calls: [call] },
        { role: "tool", content: "2" },
        answer("2"),
      ],
      tools: [{ type: "function", function: { name: "add" } }],
    },
  ],
  "alpaca with input, history and system": [
    "alpaca",
    { instruction: "Add.", input: "1 1", output: "2", system: "S", history: [["hi", "hello"]] },
    { messages: [system("S"), ask("hi"), answer("hello"), ask("Add.\n\n1 1"), answer("2")] },
  ],
  "alpaca with an empty input and a null": [
    "alpaca",
    { instruction: "Hi", input: "", output: "Hello", history: null, chosen: "x" },
    { messages: [ask("Hi"), answer("Hello")], metadata: { chosen: "x" } },
  ],
  dolly: [
    "dolly",
    { instruction: "When?", context: "It began in 2000.", response: "2000", category: "closed_qa" },
    { messages: [ask("When?\n\nIt began in 2000."), answer("2000")], metadata: { category: "closed_qa" } },
  ],
  "prompt and completion": [
    "prompt",
    { prompt: "a", completion: "b" },
    { messages: [ask("a"), answer("b")] },
  ],
  "prompt and completion as messages": [
    "prompt",
    { prompt: [ask("a")], completion: [answer("b")] },
    { messages: [ask("a"), answer("b")] },
  ],
  "text with turns": [
    "text",
    { text: "You are kind.\n\nUser: Hi\nthere\nAssistant:  Hello: you!\nHuman: Bye\nAI: Bye" },
    {
      messages: [system("You are kind."), ask("Hi\nthere"), answer("Hello: you!"), ask("Bye"), answer("Bye")],
    },
  ],
};

describe("formats of chat data", () => {
  for (const [name, [format, row, conversation]] of Object.entries(rows)) {
    it(`reads ${name}, and what it writes reads as the same`, () => {
      expect(detectChatFormat(row)).toBe(format);
      expect(readConversation(row)).toEqual(conversation);
      for (const other of ["openai", format] as const)
        expect(readConversation(JSON.parse(JSON.stringify(writeConversation(conversation, other))))).toEqual(
          conversation,
        );
    });
  }

  const words = fc
    .string({ unit: "grapheme", minLength: 1 })
    .filter((text) => text.trim() === text && text !== "");
  const plain = fc
    .tuple(fc.option(words, { nil: null }), fc.array(fc.tuple(words, words), { minLength: 1, maxLength: 3 }))
    .map(
      ([first, turns]): Conversation => ({
        messages: [
          ...(first === null ? [] : [system(first)]),
          ...turns.flatMap(([question, reply]) => [ask(question), answer(reply)]),
        ],
      }),
    );

  it("loses nothing: a conversation is written and read again, or refused", () => {
    fc.assert(
      fc.property(plain, fc.constantFrom(...chatFormatNames), (conversation, format) => {
        let row: Row;
        try {
          row = writeConversation(conversation, format);
        } catch (error) {
          expect(error).toBeInstanceOf(ConversationError);
          expect(["dolly", "prompt", "text"]).toContain(format);
          expect(conversation.messages.length > 2 || format === "text").toBe(true);
          return;
        }
        expect(detectChatFormat(row)).toBe(format);
        expect(readConversation(row)).toEqual(conversation);
      }),
    );
  });

  it("refuses to write what a format has no place for", () => {
    const tools: Conversation = { messages: [ask("?"), { ...answer(""), tool_calls: [call] }] };
    for (const format of ["alpaca", "dolly", "prompt", "text"] as const)
      expect(() => writeConversation(tools, format)).toThrow(/as openai/);
    expect(() => writeConversation({ messages: [ask("a"), answer("x\nUser: y")] }, "text")).toThrow(
      /when read back/,
    );
    expect(() =>
      writeConversation({ messages: [ask("a"), { ...answer("b"), tool_calls: [call] }] }, "sharegpt"),
    ).toThrow(/text beside a tool call/);
    const clash = { messages: [ask("a"), answer("b")], metadata: { input: "x" } };
    expect(() => writeConversation(clash, "alpaca")).toThrow(/metadata has a field input/);
  });

  it("names row and place of what is wrong", () => {
    const first = { messages: [ask("a"), answer("b")] };
    const wrong: [unknown, RegExp][] = [
      [
        { messages: [ask("a"), { role: "robot", content: "b" }] },
        /row 2 of x\.jsonl: messages\[1\]\.role should be one of system, user, assistant, tool, got "robot"/,
      ],
      [{ messages: [{ role: "user", content: 3 }] }, /row 2 .*messages\[0\]\.content should be text, got 3/],
      [
        { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
        /messages\[0\]\.content holds a part of type "image_url"/,
      ],
      [{ messages: [] }, /at least one message/],
      [{ messages: "x" }, /messages should be a list, got "x"/],
      [{ messages: ["x"] }, /messages\[0\] should be an object/],
      [
        { messages: [{ ...answer(""), tool_calls: [{ function: { name: "f", arguments: "{" } }] }] },
        /arguments of f is not valid JSON/,
      ],
      [
        { messages: [{ ...answer(""), tool_calls: [{ function: {} }] }] },
        /tool_calls\[0\] should be an object/,
      ],
      [{ messages: [{ ...ask(""), tool_calls: [call] }] }, /should be the assistant's/],
      [{ messages: [{ ...answer(""), weight: 0.5 }] }, /weight should be 0 or 1/],
      [{ instruction: "a", output: "b" }, /this is no openai row: it has instruction, output/],
      ["x", /this is no openai row: it has "x"/],
    ];
    for (const [row, message] of wrong)
      expect(() => [...readConversations([first, row], { source: "x.jsonl" })]).toThrow(message);
    expect(() => readConversation({ instruction: " ", output: "b" })).toThrow(/instruction is empty/);
    expect(() => readConversation({ instruction: "a", output: 1 })).toThrow(/output should be text, got 1/);
    expect(() => readConversation({ instruction: "a", output: "b", history: [["q"]] })).toThrow(
      /history should be a list/,
    );
    expect(() => readConversation({ text: "no turns" })).toThrow(
      /no chat format has the fields text; give one of/,
    );
    expect(() => readConversation(null)).toThrow(/no chat format has null/);
    expect(() => checkConversation({ messages: [ask("a")], metadata: [] })).toThrow(
      /metadata should be an object/,
    );
  });

  it("never fails but with a line of its own, whatever a row is", () => {
    const noise = fc.object({
      key: fc.constantFrom(
        "messages",
        "role",
        "content",
        "conversations",
        "from",
        "value",
        "instruction",
        "output",
        "text",
        "tools",
        "tool_calls",
        "function",
        "name",
        "prompt",
        "completion",
        "history",
      ),
      values: [
        fc.constantFrom("user", "assistant", "function_call", "User: a\nAssistant: b", "{", null, 1),
        fc.string(),
      ],
      maxDepth: 4,
      withBigInt: false,
    });
    fc.assert(
      fc.property(noise, (row) => {
        try {
          checkConversation(readConversation(row));
        } catch (error) {
          expect(error).toBeInstanceOf(ConversationError);
          expect((error as Error).message).not.toContain("\n");
        }
      }),
      { numRuns: 500 },
    );
  });

  const data = join(import.meta.dirname, "../../shared/data/instruct");
  it.skipIf(!existsSync(data))("reads the sets that people train on (skipped: no ../shared/data)", () => {
    const sets: [string, ChatFormatName, number][] = [
      ["alpaca_en_demo.json.gz", "alpaca", 999],
      ["glaive_toolcall_en_demo.json.gz", "sharegpt", 300],
      ["kto_en_demo.json.gz", "openai", 300],
      ["rasbt_instruction-data.json", "alpaca", 1100],
      ["sharegpt_dummy_conversation.json", "sharegpt", 500],
    ];
    for (const [file, format, count] of sets) {
      const bytes = readFileSync(join(data, file));
      const list: Row[] = JSON.parse((file.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString());
      expect(detectChatFormat(list[0]), file).toBe(format);
      const found = [...readConversations(list, { source: file })];
      expect(found.length, file).toBe(count);
      const again = found.map((conversation) => readConversation(writeConversation(conversation, "openai")));
      expect(again).toEqual(found);
    }
  });
});
