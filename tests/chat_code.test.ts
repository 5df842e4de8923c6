import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ChatModel, ChatSession } from "../serve/app/repl/chat_session.ts";
import { CodeScreen, colouredLines, loadHighlighter } from "../serve/app/repl/code_screen.ts";
import { ChatRepl } from "../serve/app/repl/repl.ts";
import { codeBlocks } from "../serve/app/sandbox/code_blocks.ts";
import { readConversation } from "../tokenizer/index.ts";
import { preferenceRows } from "../train/data/conversations/formatter.ts";
import { recordOf } from "../train/data/conversations/record.ts";
import { lens, shown, terminal } from "./support/terminal.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-chat-code-"));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(loadHighlighter);

/** A model that gives these answers, one after the other, three characters at a time. */
function scripted(...answers: string[]): ChatModel {
  return {
    ...{ name: "scripted", context: 1000, lens, close() {} },
    template: { encode: async () => ({ ids: [1], mask: [] }) as never },
    writer: {
      async *stream() {
        for (const piece of answers.shift()!.match(/[\s\S]{1,3}/g)!) yield piece;
        return "stop";
      },
    },
  };
}
const chatWith = (...answers: string[]) => new ChatSession(scripted(...answers), { max_tokens: 9 });
const fenced = (language: string, code: string) => `Here:\n\`\`\`${language}\n${code}\n\`\`\`\nDone.`;

/** Feeds lines as a pipe does. */
async function piped(chat: ChatSession, lines: readonly string[], json = false) {
  const [input, output, said] = [new PassThrough(), new PassThrough(), [] as string[]];
  const say = (line: string) => void said.push(line);
  const open = () => Promise.reject(new Error("none"));
  const done = new ChatRepl(chat, { open, json, say, input, output }).run();
  input.end(lines.map((line) => `${line}\n`).join(""));
  const code = await done;
  return { code, said, output: String(output.read() ?? "") };
}

describe("code blocks", () => {
  it("are what Markdown says they are", () => {
    expect(codeBlocks("a\n```JS {1}\nlet x\n  ```\nb `c`\n~~~~py\n~~~\n```\n~~~~\n")).toEqual([
      { language: "js", code: "let x\n" },
      { language: "py", code: "~~~\n```\n" },
    ]);
    expect(codeBlocks("```a`\nno\n\n    ```js\nno")).toEqual([]);
    expect(codeBlocks("````\n```\nstill")).toEqual([{ language: "", code: "```\nstill\n" }]);
  });

  it("any code comes back from a fence that is long enough, with its indentation", () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom("\t", "  ", "x", "``", "`", "~", ":", "")),
        fc.nat(4),
        (parts, n) => {
          const code = `${parts.join("")}\n${" ".repeat(n)}end`;
          const fence = "`".repeat(parts.length * 2 + 3);
          expect(codeBlocks(`text\n${fence}py\n${code}\n${fence}\n`)).toEqual([
            { language: "py", code: `${code}\n` },
          ]);
        },
      ),
    );
  });
});

describe("/run", () => {
  it("runs the last code block, and prints its output, exit and time", async () => {
    const chat = chatWith(
      fenced("js", 'console.log("old")'),
      fenced("ts", "const n: number = 6;\nconsole.log(n * 7);"),
    );
    const { said, output, code } = await piped(chat, ["a", "b", "/run"]);
    expect(output.split("Done.\n").at(-1)).toBe("42\n");
    expect(said).toEqual([expect.stringMatching(/^\(exit 0, \d\.\d\d s; /)]);
    expect(code).toBe(0);
  });

  it.concurrent.each([
    ["an endless loop, in 3 s", "js", "for (;;);", /^\(time limit, 3\.\d\d s: it ran longer than 3 s/],
    ["an error", "js", "undefined.x", /^\(exit 1, .*TypeError/],
    ["an exit", "js", "process.exit(3)", /^\(exit 3, /],
    ["a mistake", "ts", "let let: = 1", /^\(exit 1, 0\.00 s: SyntaxError: .*\(line 1\)/],
    ["a flood", "js", "for (;;) console.log('x'.repeat(1e4))", /^\(output limit, .*more than 64000 bytes/],
    ["a file", "js", "require('fs').readFileSync('/etc/passwd')", /^\(refused \(read\)|^\(exit 1.*ENOENT/],
    ["memory", "js", "const a = []; for (;;) a.push(Buffer.alloc(1e7, 1))", /^\(memory limit/],
  ])("says how it ended: %s", async (_, language, program, ended) => {
    const { said } = await piped(chatWith(fenced(language, program)), ["a", "/run"]);
    expect(said[0]).toMatch(ended);
  });

  it("needs code, and a language that it knows", async () => {
    const chat = chatWith("no code", fenced("", "print(1)"), fenced("cobol", "x"), fenced("jss", "1"));
    const lines = ["/run", "a", "/run", "b", "/run", "c", "/run", "d", "/run", "/run js 1 + 1"];
    const { said } = await piped(chat, lines);
    expect(said).toEqual([
      expect.stringContaining("there is no code between ``` and ```"),
      expect.stringContaining("there is no code between ``` and ```"),
      expect.stringContaining("the code does not say its language: /run python"),
      expect.stringContaining("cobol does not run here; JavaScript"),
      expect.stringContaining("did you mean js?"),
      expect.stringContaining("the code comes from the conversation"),
    ]);
  });

  it("as JSON, for scripts", async () => {
    const { output } = await piped(chatWith(fenced("js", "console.log(1)")), ["a", "/run"], true);
    expect(JSON.parse(output.split("\n")[1])).toMatchObject({ outcome: "passed", output: "1\n" });
  });

  const hasPython = spawnSync("python3", ["--version"]).status === 0;
  it.skipIf(!hasPython)("Python, with its indentation (skipped where there is no python3)", async () => {
    const code = "def f(n):\n    if n:\n        return 'yes'\n    return 'no'\nprint(f(1))";
    const { output } = await piped(chatWith(fenced("python", code)), ["a", "/run python unsafe"]);
    expect(output.split("Done.\n").at(-1)).toBe("yes\n");
  });
});

it("/explain prints a line for each token of the answer, and refuses what is no page", async () => {
  const chat = chatWith("yes");
  const { output, said } = await piped(chat, [
    "/explain",
    "a",
    "/explain",
    "/explain x.html",
    "/explain --html x.txt",
  ]);
  expect(output.split("\n").slice(1)).toEqual(['"yes" 100.0%  entropy 1.00  "yes" 100.0%', ""]);
  expect(said).toEqual([
    expect.stringContaining("there is no answer to explain"),
    expect.stringContaining("say /explain, or /explain --html"),
    expect.stringContaining("give a name that ends in .html"),
  ]);
});

describe("/rate", () => {
  it("is saved with the conversation, and a better answer is data for preferences", async () => {
    const path = join(root, "rated.jsonl");
    const { said } = await piped(chatWith("bad"), [
      "/rate up",
      "a",
      "/rate well",
      "/rate up good",
      "/rate down good",
      `/save ${path}`,
    ]);
    expect(said.slice(0, 4)).toEqual([
      expect.stringContaining("there is no answer to rate"),
      expect.stringContaining("say /rate up, /rate down"),
      expect.stringContaining("say /rate up, /rate down"),
      "rated down, with a better answer; /save FILE before you go on keeps it",
    ]);
    const saved = readConversation(JSON.parse(readFileSync(path, "utf8")));
    expect(saved.metadata).toMatchObject({ rating: -1, correction: "good" });
    expect(preferenceRows([recordOf(saved)])).toMatchObject([
      { chosen: [{ content: "good" }], rejected: [{ content: "bad" }] },
    ]);
  });

  it("is of the last answer alone", async () => {
    for (const next of ["b", "/undo", "/retry"]) {
      const chat = chatWith("one", "two");
      await piped(chat, ["a", "/rate up", next]);
      expect(chat.conversation.metadata).toBeUndefined();
    }
  });
});

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours
const plain = (text: string) => text.replace(/\x1b\[\d+m/g, "");

describe("on a terminal", () => {
  it("code is in colours, whatever the pieces in which it comes, and is the same text", () => {
    const pieces = fc.array(
      fc.constantFrom("a", " ", "\n", "```", "~~~", "`x`", "js", "const s = '<&>'", '"""', "\n```\n"),
    );
    fc.assert(
      fc.property(pieces, (parts) => {
        const whole = { text: "" };
        const screen = new CodeScreen((text) => {
          whole.text += text;
        });
        for (const part of parts) screen.hear(part);
        screen.end();
        expect(plain(whole.text)).toBe(parts.join(""));
      }),
    );
    const lines = colouredLines('const a = "x"; // no\n/* two\nlines */', "js");
    expect(lines[0]).toContain('\x1b[35mconst\x1b[0m a = \x1b[0m\x1b[32m"x"');
    expect(lines.at(-1)).toContain("\x1b[90mlines */");
    expect(colouredLines("a\nb", "cobol")).toEqual(["a", "b"]);
  });

  it("text is shown as it comes, before its line ends", () => {
    const written: string[] = [];
    const screen = new CodeScreen((text) => void written.push(text));
    for (const part of ["Once", " upon", "\n``", "`js\nlet", " a", "\n```", "\nend"]) screen.hear(part);
    expect(written.map(plain).filter((text) => text !== "")).toEqual([
      ...["Once", " upon", "\n", "```js\n", "let a\n", "```\n", "end"],
    ]);
  });

  it("You and AI speak; an open fence goes on; the history is kept for the next time, by the person alone", async () => {
    const history = join(root, "history");
    const chat = chatWith(fenced("js", "let a = 1;"), "two");
    const { type, seen, done } = terminal(chat, { history });
    type("```js\rfoo();\r```\r");
    await shown(seen, "AI: Here:\n");
    await shown(seen, "\x1b[35mlet\x1b[0m a = ");
    await shown(seen, "Done.\n");
    expect(seen()).toContain("You: ");
    expect(chat.messages[0].content).toBe("```js\nfoo();\n```");
    type("\x04");
    await done;
    expect(statSync(history).mode & 0o77).toBe(0);
    const again = terminal(chat, { history });
    again.type("\x1b[A"); // the arrow up: the last line
    await shown(again.seen, "```");
    again.type("\x1b[A");
    await shown(again.seen, "foo();");
    again.type("\x15\x04");
    await again.done;
  });

  it("Ctrl-C stops a program", async () => {
    const { type, seen, done } = terminal(chatWith(fenced("js", "setInterval(() => {}, 9)")));
    type("a\r");
    await shown(seen, "Done.\n");
    type("/run\r");
    await new Promise((resolve) => setTimeout(resolve, 300));
    type("\x03");
    await shown(seen, "kiln: stopped");
    type("\x04");
    expect(await done).toBe(0);
  });

  it("what a model says, and what a program prints or fails with, moves no cursor", async () => {
    const program = 'console.log("a\\x1b[2Jb\\x07\\tc"); throw new Error("\\x1b[3J\\u202e!")';
    const { type, seen, done } = terminal(chatWith(`\x1b]0;title\x07${fenced("js", program)}`));
    type("a\r");
    await shown(seen, "Done.\n");
    expect(seen()).toContain("AI: \ufffd]0;title\ufffdHere:");
    type("/run\r");
    await shown(seen, "a\ufffd[2Jb\ufffd\tc\n", 30_000);
    await shown(seen, "Error: \ufffd[3J\ufffd!");
    type("\x04");
    await done;
  });
});
