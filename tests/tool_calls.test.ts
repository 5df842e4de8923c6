import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ArgumentsReader,
  CALL_LIST,
  type CallPiece,
  type CallReader,
  TOOL_FORMATS,
  ToolCallReader,
  type ToolFormat,
  toolFormatOf,
} from "../serve/text/tool_calls.ts";
import { CHATML } from "../tokenizer/index.ts";

const names = new Set(["weather", "time"]);
const { hermes, mistral, llama } = TOOL_FORMATS;

/** Reads a text cut into pieces; each call must show its id and name once, first. */
function read(reader: CallReader, pieces: readonly string[]) {
  let content = "";
  const calls: { id: string; name: string; arguments: string }[] = [];
  const take = (found: { content: string; calls: readonly CallPiece[] }) => {
    content += found.content;
    for (const { index, id, name, arguments: args } of found.calls) {
      if (calls[index] === undefined) {
        if (index !== calls.length || !id || !name) throw new Error("a call begins with its id and name");
        calls[index] = { id, name, arguments: "" };
      } else if (id !== undefined || name !== undefined) throw new Error("id and name come once");
      calls[index].arguments += args;
    }
  };
  for (const piece of pieces) take(reader.push(piece));
  take(reader.flush());
  expect(reader.count).toBe(calls.length);
  return { content, calls: calls.map((call) => [call.name, call.arguments]), ids: calls.map(({ id }) => id) };
}

const make = (format: ToolFormat, parallel = true) => new ToolCallReader(format, { names, parallel });

const paris = '{"city": "Paris \\"{[<é😀", "days": [1, {"a": "}"}]}';
/** What an answer of each format is: its content and its calls. */
const answers: [string, ToolFormat, text: string, content: string, calls: string[][]][] = [
  ["plain text", hermes, "It rains <today>, \n{}\n", "It rains <today>, \n{}\n", []],
  [
    "a call",
    hermes,
    `<tool_call>\n{"name": "weather", "arguments": ${paris}}\n</tool_call>`,
    "",
    [["weather", paris]],
  ],
  [
    "text, then two calls",
    hermes,
    `Let me see.\n\n<tool_call>{"name":"weather","arguments":${paris}}</tool_call>\n<tool_call>\n{"arguments": {}, "name": "time"}\n</tool_call>\n`,
    "Let me see.",
    [
      ["weather", paris],
      ["time", "{}"],
    ],
  ],
  [
    "text after a call",
    hermes,
    '<tool_call>{"name":"time","arguments":{}}</tool_call> Done.',
    "Done.",
    [["time", "{}"]],
  ],
  ["no arguments", hermes, '<tool_call>{"name": "time"}</tool_call>', "", [["time", "{}"]]],
  [
    "arguments as text",
    hermes,
    '<tool_call>{"name":"time","arguments":"{\\"zone\\": 1}"}</tool_call>',
    "",
    [["time", '{"zone": 1}']],
  ],
  [
    "cut within the arguments",
    hermes,
    '<tool_call>{"name":"time","arguments":{"zone": "Eu',
    "",
    [["time", '{"zone": "Eu']],
  ],
  ["cut before the name ends", hermes, 'So <tool_call>{"name":"ti', 'So <tool_call>{"name":"ti', []],
  [
    "no call within the mark",
    hermes,
    "a <tool_call>time()</tool_call>",
    "a <tool_call>time()</tool_call>",
    [],
  ],
  [
    "JSON without a name",
    hermes,
    '<tool_call>{"city": 1}</tool_call>',
    '<tool_call>{"city": 1}</tool_call>',
    [],
  ],
  ["half a mark", hermes, "a <tool_ca", "a <tool_ca", []],
  [
    "a list",
    mistral,
    `[TOOL_CALLS] [{"name": "weather", "arguments": ${paris}}, {"name": "time", "arguments": {}}]`,
    "",
    [
      ["weather", paris],
      ["time", "{}"],
    ],
  ],
  [
    "names before arguments",
    mistral,
    `Yes.[TOOL_CALLS]weather[ARGS]${paris}[TOOL_CALLS]time{"zone": 2}`,
    "Yes.",
    [
      ["weather", paris],
      ["time", '{"zone": 2}'],
    ],
  ],
  ["brackets are text", mistral, "[1, 2] [TOOL", "[1, 2] [TOOL", []],
  ["a bare call", llama, `{"name": "weather", "parameters": ${paris}}`, "", [["weather", paris]]],
  [
    "two bare calls",
    llama,
    `<|python_tag|>{"name": "weather", "parameters": ${paris}}; {"name": "time", "parameters": {}}`,
    "",
    [
      ["weather", paris],
      ["time", "{}"],
    ],
  ],
  [
    "JSON that is an answer",
    llama,
    '{"name": "Ada", "parameters": {"age": 36}}',
    '{"name": "Ada", "parameters": {"age": 36}}',
    [],
  ],
  ["JSON that names a tool only", llama, '{"name": "time"}', '{"name": "time"}', []],
  [
    "text first",
    llama,
    '  So: {"name": "time", "parameters": {}}',
    '  So: {"name": "time", "parameters": {}}',
    [],
  ],
  [
    "a forced list",
    CALL_LIST,
    `[{"name": "weather", "parameters": ${paris}},\n {"name": "time", "parameters": {}}]`,
    "",
    [
      ["weather", paris],
      ["time", "{}"],
    ],
  ],
];

describe("calls of tools in an answer's text", () => {
  it.each(answers)("W43: %s", (_name, format, text, content, calls) => {
    expect(read(make(format), [text])).toMatchObject({ content, calls });
    expect(read(make(format), [...text])).toMatchObject({ content, calls });
  });

  it("W11 W43: where the pieces are cut makes no difference (property)", () => {
    const cut = (text: string, places: readonly number[]) => {
      const at = [
        0,
        ...new Set(places.map((place) => place % (text.length + 1)).sort((a, b) => a - b)),
        text.length,
      ];
      return at.slice(1).map((end, i) => text.slice(at[i], end));
    };
    fc.assert(
      fc.property(
        fc.constantFrom(...answers),
        fc.array(fc.nat(500), { maxLength: 6 }),
        ([, format, text, content, calls], places) => {
          expect(read(make(format), cut(text, places))).toMatchObject({ content, calls });
        },
      ),
      { numRuns: 500 },
    );
  });

  it("nothing is lost of any text, marks or not, and nothing throws (property)", () => {
    const word = fc.constantFrom(
      ...[
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "{",
        "}",
        '"',
        "name",
        ':"time"',
        ',"arguments":',
        "[",
        "]",
        ",",
        " ",
      ],
      ...["\n", "\\", "a", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", ";", "[TOOL"],
    );
    const format = fc.constantFrom<ToolFormat>(hermes, mistral, llama, CALL_LIST);
    fc.assert(
      fc.property(format, fc.array(word, { maxLength: 25 }), (one, words) => {
        const text = words.join("");
        const whole = read(make(one), [text]);
        expect(read(make(one), words)).toMatchObject({ content: whole.content, calls: whole.calls });
        if (whole.calls.length > 0) return;
        // Without a call all of it is content; but what begins a list of calls, to which the answer was bound, is none.
        if (one === CALL_LIST) expect(["", text.trimEnd()]).toContain(whole.content.trimEnd());
        else expect(whole.content).toBe(text);
      }),
      { numRuns: 3000 },
    );
  });

  it("parallel_tool_calls: false keeps the first call", () => {
    const text =
      '<tool_call>{"name":"weather","arguments":{}}</tool_call><tool_call>{"name":"time","arguments":{}}</tool_call>';
    expect(read(make(hermes, false), [...text])).toMatchObject({ content: "", calls: [["weather", "{}"]] });
  });

  it("ids are as the model's template wants them", () => {
    expect(read(make(hermes), [answers[2][2]]).ids.every((id) => /^call_[0-9a-f]{24}$/.test(id))).toBe(true);
    const { ids } = read(make(mistral), [answers[11][2]]);
    expect(ids.every((id) => /^[0-9a-f]{9}$/.test(id))).toBe(true);
    expect(new Set(ids).size).toBe(2);
  });

  it("an answer bound to one tool's arguments", () => {
    expect(read(new ArgumentsReader("time"), ['{"zo', "", 'ne": 1}'])).toMatchObject({
      content: "",
      calls: [["time", '{"zone": 1}']],
    });
  });

  it("the format is chosen by what the template contains", () => {
    expect(toolFormatOf(CHATML)).toBe(hermes);
    expect(toolFormatOf("{% for tool in tools %}[AVAILABLE_TOOLS]{% endfor %}[TOOL_CALLS]")).toBe(mistral);
    expect(toolFormatOf("{% if tools %}<|python_tag|>{% endif %}")).toBe(llama);
    expect(
      toolFormatOf(
        '{% if tools %}{"name": function name, "parameters": dictionary of argument name and its value}',
      ),
    ).toBe(llama);
    expect(toolFormatOf("{% if tools %}{{ tools }}{% endif %}")).toBe(hermes);
    expect(toolFormatOf("{{ messages }}")).toBeNull();
  });
});
