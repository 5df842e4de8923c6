import { createInterface, type Interface } from "node:readline";
import { type Readable, Writable } from "node:stream";
import { KilnError, nearestName } from "../../../core/errors.ts";
import { loadChat, saveChat } from "./chat_files.ts";
import type { Answer, ChatModel, ChatSession } from "./chat_session.ts";

export interface ReplOptions {
  /** Loads the model that a person names. Throws where it cannot; the conversation then goes on with the old one. */
  open(name: string): Promise<ChatModel>;
  /** Answers as lines of JSON, instead of text as it comes. */
  json?: boolean | undefined;
  /** Prints a line for the person who watches. */
  say(line: string): void;
  input?: Readable & { isTTY?: boolean };
  output?: Writable & { isTTY?: boolean; columns?: number };
}

interface Command {
  argument?: string;
  text: string;
  run(argument: string): Promise<void> | void;
}

const counted = (count: number, thing: string) =>
  `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;

/**
 * Reads messages and streams the answers; `\` at the end of a line goes on with the next, and a line that begins with / is a
 * command. On a terminal with line editing and history; elsewhere the output holds nothing but the answers. Ctrl-C stops an
 * answer, and the second time leaves.
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
    const { input = process.stdin, output = process.stdout } = options;
    this.#session = session;
    this.#options = options;
    this.#output = output;
    this.#isTerminal = input.isTTY === true;
    const screen = output.isTTY ? output : process.stderr;
    // What is typed while an answer comes must not appear in the midst of it.
    const quiet = new Writable({
      write: (chunk, _encoding, done) => {
        if (!this.#running) screen.write(chunk);
        done();
      },
    });
    Object.defineProperty(quiet, "columns", { get: () => screen.columns });
    const editing = this.#isTerminal && { output: quiet, historySize: 1000 };
    this.#lines = createInterface({ input, terminal: this.#isTerminal, ...editing });
  }

  /** Talks until the input ends or the person leaves; returns the exit code. */
  async run(): Promise<number> {
    const interrupt = () => this.#interrupt();
    this.#lines.on("SIGINT", interrupt);
    process.on("SIGINT", interrupt);
    let message = "";
    try {
      this.#prompt(">>> ");
      for await (const line of this.#lines) {
        this.#wasInterrupted = false;
        const goesOn = line.endsWith("\\");
        message += goesOn ? `${line.slice(0, -1)}\n` : line;
        if (!goesOn) {
          await this.#take(message.trim());
          message = "";
        }
        if (this.#hasLeft) break;
        this.#prompt(goesOn ? "... " : ">>> ");
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
    const running = new AbortController();
    this.#running = running;
    let isOpen = false;
    const hear = (text: string) => {
      if (json) return;
      this.#output.write(text);
      isOpen = true;
    };
    try {
      const { leftOut, ...answer } = await ask(hear, running.signal);
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
      this.#prompt(">>> ");
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
      this.#options.say(`${`/${name} ${argument}`.padEnd(18)}${text}`);
    this.#options.say(
      "A \\ at the end of a line goes on with the next. Ctrl-C stops an answer; twice leaves.",
    );
  }
}
