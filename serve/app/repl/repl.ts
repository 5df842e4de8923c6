import { createInterface, type Interface } from "node:readline";
import { type Readable, Writable } from "node:stream";
import { KilnError, nearestName } from "../../../core/errors.ts";
import { codeBlocks, FenceReader } from "../sandbox/code_blocks.ts";
import { endOf, runCode } from "../sandbox/sandbox.ts";
import { loadChat, saveChat } from "./chat_files.ts";
import type { Answer, ChatModel, ChatSession } from "./chat_session.ts";
import { CodeScreen, loadHighlighter } from "./code_screen.ts";
import { appendHistory, readHistory } from "./history_file.ts";

export interface ReplOptions {
  /** Loads the model that a person names. Throws where it cannot; the conversation then goes on with the old one. */
  open(name: string): Promise<ChatModel>;
  /** Answers as lines of JSON, instead of text as it comes. */
  json?: boolean | undefined;
  /** Prints a line for the person who watches. */
  say(line: string): void;
  input?: Readable & { isTTY?: boolean };
  output?: Writable & { isTTY?: boolean; columns?: number };
  /** Where the lines that are typed on a terminal are kept for the next time; null keeps none. */
  history?: string | null;
}

interface Command {
  argument?: string;
  text: string;
  run(argument: string): Promise<void> | void;
}

const counted = (count: number, thing: string) =>
  `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;

const asking = "You: ";
const goingOn = "...  ";

/**
 * Reads messages and streams the answers; `\` at the end of a line goes on with the next, as an open fence of code does, and a
 * line that begins with / is a command. On a terminal with line editing, history and code in colours; elsewhere the output
 * holds nothing but the answers and what programs wrote. Ctrl-C stops an answer or a program, and the second time leaves.
 */
export class ChatRepl {
  readonly #session: ChatSession;
  readonly #options: ReplOptions;
  readonly #output: NonNullable<ReplOptions["output"]>;
  readonly #isTerminal: boolean;
  readonly #lines: Interface;
  /** Files that this session saved. */
  readonly #saved = new Set<string>();
  /** Stops the answer that is being written. */
  #running: AbortController | null = null;
  #wasInterrupted = false;
  #hasLeft = false;
  #leftOut = 0;
  #exitCode = 0;

  constructor(session: ChatSession, options: ReplOptions) {
    const { input = process.stdin, output = process.stdout, history: file = null } = options;
    this.#session = session;
    this.#output = output;
    this.#isTerminal = input.isTTY === true;
    // Errors of programs, names of languages and rows of files come from models and strangers too.
    const say = (line: string) => options.say(this.#isTerminal ? printable(line) : line);
    this.#options = { ...options, say };
    const screen = output.isTTY ? output : process.stderr;
    // What is typed while an answer comes must not appear in the midst of it.
    const quiet = new Writable({
      write: (chunk, _encoding, done) => {
        if (!this.#running) screen.write(chunk);
        done();
      },
    });
    Object.defineProperty(quiet, "columns", { get: () => screen.columns });
    const history = this.#isTerminal && file !== null ? readHistory(file) : [];
    const editing = this.#isTerminal && { output: quiet, historySize: 1000, history };
    this.#lines = createInterface({ input, terminal: this.#isTerminal, ...editing });
    if (file !== null) this.#lines.on("history", ([line]: string[]) => line && appendHistory(file, line));
  }

  /** Talks until the input ends or the person leaves; returns the exit code. */
  async run(): Promise<number> {
    const interrupt = () => this.#interrupt();
    this.#lines.on("SIGINT", interrupt);
    process.on("SIGINT", interrupt);
    let message = "";
    try {
      this.#prompt(asking);
      for await (const line of this.#lines) {
        this.#wasInterrupted = false;
        const isCut = line.endsWith("\\");
        const goesOn = isCut || isOpen(message + line);
        message += goesOn ? `${isCut ? line.slice(0, -1) : line}\n` : line;
        if (!goesOn) {
          await this.#take(message.trim());
          message = "";
        }
        if (this.#hasLeft) break;
        this.#prompt(goesOn ? goingOn : asking);
      }
      await this.#take(message.trim());
    } finally {
      process.off("SIGINT", interrupt);
      this.#lines.close();
    }
    return this.#exitCode;
  }

  readonly #commands: Record<string, Command> = {
    system: {
      argument: "[TEXT]",
      text: 'what the model is told first; alone: show it; "" takes it back',
      run: (text) => {
        if (text !== "") this.#session.system = text === '""' ? "" : text;
        this.#options.say(`system: ${this.#session.system || "(nothing)"}`);
      },
    },
    model: {
      argument: "[MODEL]",
      text: "go on with another model; alone: show it",
      run: (name) => this.#change(name),
    },
    save: {
      argument: "FILE",
      text: "write the conversation, for kiln train sft too",
      run: (path) => this.#save(path),
    },
    load: {
      argument: "FILE [N]",
      text: "go on with conversation N of JSON, JSON Lines, or text with User: and Assistant:",
      run: (file) => this.#load(file),
    },
    undo: {
      text: "take back the last message and its answer",
      run: () => this.#options.say(`taken back: ${this.#session.undo()}`),
    },
    retry: {
      text: "answer the last message once more",
      run: () => this.#show((hear, signal) => this.#session.retry(hear, signal)),
    },
    run: {
      argument: "[LANGUAGE] [unsafe]",
      text: "run the last code block in the sandbox",
      run: (how) => this.#run(how),
    },
    explain: {
      argument: "[--html FILE]",
      text: "what else each token of the answer could have been; as a page also why",
      run: (argument) => this.#explain(argument),
    },
    rate: {
      argument: "up|down [BETTER]",
      text: "rate the last answer; with down, BETTER is what it should have been. /save keeps it",
      run: (rating) => this.#rate(rating),
    },
    context: { text: "how much of the context is taken", run: () => this.#context() },
    clear: {
      text: "begin again, with the same system message",
      run: () => {
        this.#session.clear();
        this.#options.say("a new conversation");
      },
    },
    help: { text: "these lines", run: () => this.#help() },
    quit: { text: "leave, as Ctrl-D does", run: () => this.#leave() },
  };

  /** Does what a message or command says. An error is told, and the conversation goes on. */
  async #take(message: string): Promise<void> {
    if (message === "" || this.#hasLeft) return;
    try {
      if (message.startsWith("/")) await this.#obey(message);
      else await this.#show((hear, signal) => this.#session.ask(message, hear, signal));
    } catch (error) {
      this.#options.say(`kiln: ${(error as Error).message}`);
      if (!this.#isTerminal) this.#exitCode = 1;
    }
  }

  #obey(message: string): Promise<void> | void {
    const [, name, argument] = /^\/(\S*)\s*([\s\S]*)$/.exec(message)!;
    if (Object.hasOwn(this.#commands, name)) return this.#commands[name].run(argument);
    const near = nearestName(name, Object.keys(this.#commands));
    throw new KilnError(`there is no /${name}${near ? `, did you mean /${near}?` : ""}; /help lists all`);
  }

  /** Writes an answer as it comes. */
  async #show(ask: (hear: (text: string) => void, signal: AbortSignal) => Promise<Answer>): Promise<void> {
    const { json, say } = this.#options;
    if (this.#isTerminal) await loadHighlighter();
    const running = new AbortController();
    this.#running = running;
    let isOpen = false;
    const screen = this.#isTerminal ? new CodeScreen((text) => this.#output.write(text)) : null;
    const hear = (heard: string) => {
      if (json) return;
      const text = this.#isTerminal ? printable(heard) : heard;
      if (!isOpen && this.#isTerminal) this.#output.write("AI: ");
      isOpen = true;
      if (screen) screen.hear(text);
      else this.#output.write(text);
    };
    try {
      const { leftOut, ...answer } = await ask(hear, running.signal).finally(() => screen?.end());
      if (json) this.#output.write(`${JSON.stringify(answer)}\n`);
      else if (answer.content !== "" || !this.#isTerminal) this.#output.write("\n");
      isOpen = false;
      const note = this.#noteOf(answer);
      if (note) say(`(${note})`);
      if (leftOut > this.#leftOut)
        say(`(no longer in the context: the oldest ${counted(leftOut, "turn")}; /save keeps them)`);
      this.#leftOut = leftOut;
    } finally {
      if (isOpen) this.#output.write("\n");
      this.#running = null;
    }
  }

  #noteOf({ content, finish_reason }: Omit<Answer, "leftOut">): string | null {
    if (finish_reason === "interrupted")
      return content === "" ? "stopped before the first word: the message is taken back" : "stopped";
    if (finish_reason === "length") return "cut off: --max-tokens, or the end of the context";
    return content === "" ? "the model had nothing to say" : null;
  }

  #interrupt(): void {
    if (this.#running && !this.#running.signal.aborted) {
      this.#running.abort();
      this.#wasInterrupted = true;
    } else if (this.#wasInterrupted || !this.#isTerminal) {
      this.#exitCode = 130;
      this.#leave();
    } else {
      this.#wasInterrupted = true;
      this.#lines.write(null, { ctrl: true, name: "u" }); // an empty line
      this.#options.say("\n(Ctrl-C once more leaves)");
      this.#prompt(asking);
    }
  }

  #leave(): void {
    this.#hasLeft = true;
    this.#lines.close();
  }

  #prompt(text: string): void {
    if (!this.#isTerminal || this.#hasLeft) return;
    this.#lines.setPrompt(text);
    this.#lines.prompt(true);
  }

  async #change(name: string): Promise<void> {
    const before = this.#session.model;
    if (name !== "") {
      this.#session.model = await this.#options.open(name);
      before.close();
    }
    this.#options.say(
      `${this.#session.model.name}, a context of ${counted(this.#session.model.context, "token")}`,
    );
  }

  async #save(path: string): Promise<void> {
    const { messages, conversation } = this.#session;
    if (path === "") throw new KilnError("name a file: /save FILE.jsonl");
    if (messages.length === 0) throw new KilnError("nothing was said yet, so there is nothing to save");
    this.#saved.add(await saveChat(path, conversation, this.#saved));
    this.#options.say(`saved ${counted(messages.length, "message")} to ${path}`);
  }

  async #load(argument: string): Promise<void> {
    const [, path, number = "1"] = /^(.*?)(?:\s+([1-9]\d*))?$/.exec(argument)!;
    if (path === "") throw new KilnError("name a file: /load FILE, or /load FILE N for its conversation N");
    this.#session.conversation = await loadChat(path, Number(number));
    const { messages } = this.#session;
    const hint = messages.at(-1)?.role === "user" ? "; the last is a question, which /retry answers" : "";
    this.#options.say(`loaded ${counted(messages.length, "message")} from ${path}${hint}`);
  }

  /** Runs the last code of the conversation; what it wrote is output, how it ended a line. */
  async #run(how: string): Promise<void> {
    const words = how.split(/\s+/).filter((word) => word !== "");
    const unsafe = words.includes("unsafe");
    const [language, more] = words.filter((word) => word !== "unsafe");
    if (more !== undefined)
      throw new KilnError("say /run, or /run LANGUAGE unsafe: the code comes from the conversation");
    const block = this.#session.messages.flatMap(({ content }) => codeBlocks(content)).at(-1);
    if (!block)
      throw new KilnError("there is no code between ``` and ``` in the conversation, so nothing to run");
    const running = new AbortController();
    this.#running = running;
    try {
      const ended = await runCode(block, { language, unsafe, signal: running.signal });
      const { output, tier } = ended;
      if (this.#options.json) {
        this.#output.write(`${JSON.stringify(ended)}\n`);
        return;
      }
      this.#output.write(this.#isTerminal ? printable(output) : output);
      if (output !== "" && !output.endsWith("\n")) this.#output.write("\n");
      this.#options.say(`(${endOf(ended)}; ${tier})`);
    } finally {
      this.#running = null;
    }
  }

  async #explain(argument: string): Promise<void> {
    const [, file] = /^--html\s+(\S.*)$/.exec(argument) ?? [];
    if (argument !== "" && file === undefined)
      throw new KilnError("say /explain, or /explain --html FILE.html");
    const { prompt, answer, by } = await this.#session.lastAnswer();
    const { lens, name } = this.#session.model;
    const isOthers = by !== undefined && by !== name;
    if (isOthers) this.#options.say(`(${by} wrote this answer; what follows is what ${name} makes of it)`);
    if (file === undefined) {
      const { choiceLines } = await import("../explain/explain.ts");
      const lines = choiceLines(await lens.alternatives(prompt, answer));
      this.#output.write(lines.map((line) => `${this.#isTerminal ? printable(line) : line}\n`).join(""));
      return;
    }
    const { pageFile, writeExplanation } = await import("../explain/page.ts");
    const { gapLine } = await import("../explain/explain.ts");
    const path = pageFile(file);
    const explanation = await lens.everything(prompt, answer);
    writeExplanation(path, explanation, `An answer of ${by ?? name}${isOthers ? `, read by ${name}` : ""}`);
    this.#options.say(`wrote ${file}: ${gapLine(explanation.attribution)}`);
  }

  #rate(argument: string): void {
    const [, word, better] = /^(up|down)(?:\s+([\s\S]+))?$/.exec(argument.trim()) ?? [];
    if (word === undefined || (word === "up" && better !== undefined))
      throw new KilnError("say /rate up, /rate down, or /rate down and what it should have been");
    this.#session.rate(word === "up" ? 1 : -1, better);
    this.#options.say(
      `rated ${word}${better ? ", with a better answer" : ""}; /save FILE before you go on keeps it`,
    );
  }

  async #context(): Promise<void> {
    const { model, answerRoom } = this.#session;
    const { ids, turns, leftOut } = await this.#session.prompt();
    const seen = leftOut > 0 ? `${turns - leftOut} of ${counted(turns, "turn")}` : counted(turns, "turn");
    this.#options.say(
      `${seen}: ${ids.length} of ${counted(model.context, "token")}, ${answerRoom} kept for the answer`,
    );
  }

  #help(): void {
    for (const [name, { argument = "", text }] of Object.entries(this.#commands))
      this.#options.say(`${`/${name} ${argument}`.padEnd(26)}${text}`);
    this.#options.say(
      "A \\ at the end of a line goes on with the next. Ctrl-C stops an answer; twice leaves.",
    );
  }
}

/** Whether a message ends within a code block, and so goes on with the next line. */
function isOpen(message: string): boolean {
  const reader = new FenceReader();
  for (const line of message.split("\n")) reader.take(line);
  return reader.open !== null;
}

/** What a model or a program wrote, without what would move a terminal's cursor, change its colours or write from right to left. */
const printable = (text: string) =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what it takes away
  text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
