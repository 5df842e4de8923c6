import { partialMatch } from "../../tokenizer/decoders.ts";
import { JsonCall } from "./json_call.ts";

/** How a family of models writes calls of tools. */
export interface ToolFormat {
  /** Whether a chat template is of this family. */
  readonly fits: (template: string) => boolean;
  /** Texts that begin the calls. */
  readonly opens: readonly string[];
  /** Whether an answer may also begin with a call, without any of them. */
  readonly bare: boolean;
  /** Texts around calls that mean nothing, besides white space. */
  readonly between: readonly string[];
  /** Whether a call may be its name, perhaps this text, and the arguments, instead of one JSON object. */
  readonly named: string | null;
  /** Whether nothing in an answer is text, also where its end is missing. */
  readonly onlyCalls?: boolean;
  readonly makeId: () => string;
}

const longId = () => `call_${crypto.randomUUID().replaceAll("-", "").slice(0, 24)}`;

/** The first that fits counts. */
export const TOOL_FORMATS = {
  /** `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and `CHATML`. */
  hermes: {
    fits: (template) => template.includes("<tool_call>"),
    opens: ["<tool_call>"],
    bare: false,
    between: ["</tool_call>", "<tool_call>"],
    named: null,
    makeId: longId,
  },
  /** `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name[ARGS]{…}` of the later ones. */
  mistral: {
    fits: (template) => template.includes("[TOOL_CALLS]"),
    opens: ["[TOOL_CALLS]"],
    bare: false,
    between: ["[TOOL_CALLS]", "[", "]", ","],
    named: "[ARGS]",
    // Mistral's templates refuse any other length in a later turn.
    makeId: () => crypto.randomUUID().replaceAll("-", "").slice(0, 9),
  },
  /** `{"name": …, "parameters": {…}}`, several separated by `;`: Llama 3.1 to 3.3. */
  llama: {
    fits: (template) => template.includes("<|python_tag|>") || /"parameters": dictionary/.test(template),
    opens: ["<|python_tag|>"],
    bare: true,
    between: ["<|python_tag|>", ";"],
    named: null,
    makeId: longId,
  },
} as const satisfies Record<string, ToolFormat>;

/** A list of calls from the first character on, to which an answer was bound. */
export const CALL_LIST: ToolFormat = {
  fits: () => false,
  opens: [],
  bare: true,
  between: ["[", "]", ","],
  named: null,
  onlyCalls: true,
  makeId: longId,
};

/** The format of the models with a chat template, or null if the template shows a model no tools. */
export function toolFormatOf(template: string): ToolFormat | null {
  if (!/\btools\b/.test(template)) return null;
  return Object.values(TOOL_FORMATS).find(({ fits }) => fits(template)) ?? TOOL_FORMATS.hermes;
}

/** A piece of a call: the first one of an index has its id and name. */
export interface CallPiece {
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  /** JSON text, to be joined with that of the other pieces. */
  readonly arguments: string;
}

/** What a piece of an answer's text says. */
export interface MessagePiece {
  readonly content: string;
  readonly calls: readonly CallPiece[];
}

export interface CallOptions {
  /** The tools that there are. A call that no mark announces must name one of them. */
  readonly names: ReadonlySet<string>;
  /** Whether there may be more than one call; others are left out. */
  readonly parallel: boolean;
}

/** Finds the calls of tools in the text of an answer. */
export interface CallReader {
  /** Calls found so far. */
  readonly count: number;
  /** Whether the last of them has its end. */
  readonly isWhole: boolean;
  push(text: string): MessagePiece;
  /** What was held back; call at the end. */
  flush(): MessagePiece;
}

const NOTHING: MessagePiece = { content: "", calls: [] };

/** Reads an answer without tools. */
export const noCalls: CallReader = {
  count: 0,
  isWhole: true,
  push: (content) => ({ content, calls: [] }),
  flush: () => NOTHING,
};

/** Reads an answer that was bound to be the arguments of one tool. */
export class ArgumentsReader implements CallReader {
  readonly #name: string;
  readonly isWhole = true;
  count = 0;

  constructor(name: string) {
    this.#name = name;
  }

  push(text: string): MessagePiece {
    if (text === "") return NOTHING;
    const head = this.count === 0 ? { id: longId(), name: this.#name } : {};
    this.count = 1;
    return { content: "", calls: [{ index: 0, ...head, arguments: text }] };
  }

  flush(): MessagePiece {
    return NOTHING;
  }
}

/**
 * Separates the calls of tools from the text of one answer, as it comes. White space before a call is left out. What begins
 * like a call and turns out to be none is content.
 */
export class ToolCallReader implements CallReader {
  readonly #format: ToolFormat;
  readonly #options: CallOptions;
  #state: "text" | "between" | "call" = "text";
  /** Text not yet understood. */
  #buffer = "";
  /** White space that is content unless a call follows. */
  #space = "";
  /** What has been read since the text before the call, in case it is none. */
  #raw = "";
  #call: JsonCall | null = null;
  #announced = false;
  #count = 0;
  #content = "";
  #calls: CallPiece[] = [];

  constructor(format: ToolFormat, options: CallOptions) {
    this.#format = format;
    this.#options = options;
    if (format.bare) this.#state = "between";
  }

  get count(): number {
    return this.#options.parallel ? this.#count : Math.min(this.#count, 1);
  }

  get isWhole(): boolean {
    return this.#call === null;
  }

  push(text: string): MessagePiece {
    this.#buffer += text;
    while (this.#advance());
    return this.#take();
  }

  flush(): MessagePiece {
    // A call whose name has been shown stays one, though its end is missing.
    if (this.#call?.shown !== true && !this.#format.onlyCalls) {
      this.#giveBack();
      this.#content += this.#buffer;
      this.#buffer = "";
    }
    return this.#take();
  }

  #take(): MessagePiece {
    const piece = { content: this.#content, calls: this.#calls };
    this.#content = "";
    this.#calls = [];
    return piece;
  }

  /** Reads on in the buffer; false if more text is needed. */
  #advance(): boolean {
    if (this.#buffer === "") return false;
    if (this.#state === "text") return this.#readText();
    return this.#state === "between" ? this.#readBetween() : this.#readCall();
  }

  #readText(): boolean {
    const { opens } = this.#format;
    const found = opens.filter((mark) => this.#buffer.includes(mark));
    const at = Math.min(...found.map((mark) => this.#buffer.indexOf(mark)));
    if (found.length > 0) {
      this.#show(this.#buffer.slice(0, at));
      this.#buffer = this.#buffer.slice(at);
      this.#state = "between";
      return true;
    }
    const keep = Math.max(0, ...opens.map((mark) => partialMatch(this.#buffer, mark)));
    this.#show(this.#buffer.slice(0, this.#buffer.length - keep));
    this.#buffer = this.#buffer.slice(this.#buffer.length - keep);
    return false;
  }

  /** Adds content, holding back white space at its end. */
  #show(text: string): void {
    const rest = text.trimEnd();
    if (rest === "") {
      this.#space += text;
      return;
    }
    this.#content += this.#space + rest;
    this.#space = text.slice(rest.length);
  }

  #readBetween(): boolean {
    const { between, opens, named } = this.#format;
    const isPrefix = (mark: string) => mark.length > this.#buffer.length && mark.startsWith(this.#buffer);
    if (between.some(isPrefix)) return false;
    const space = /^\s+/.exec(this.#buffer)?.[0];
    const skipped = space ?? between.find((mark) => this.#buffer.startsWith(mark));
    if (skipped !== undefined) {
      if (opens.includes(skipped)) this.#announced = true;
      this.#consume(skipped.length);
      return true;
    }
    if (this.#buffer.startsWith("{")) {
      this.#call = new JsonCall();
      this.#state = "call";
      return true;
    }
    if (named !== null && this.#announced) return this.#readName(named);
    this.#giveBack();
    return true;
  }

  #readName(mark: string): boolean {
    const match = /^[\w.-]+/.exec(this.#buffer);
    const after = match === null ? this.#buffer : this.#buffer.slice(match[0].length).trimStart();
    const marked = after.startsWith(mark);
    const rest = marked ? after.slice(mark.length).trimStart() : after;
    if (match !== null && rest.startsWith("{")) {
      this.#consume(this.#buffer.length - rest.length);
      this.#call = new JsonCall(match[0]);
      this.#state = "call";
      return true;
    }
    if (match !== null && (rest === "" || (!marked && mark.startsWith(rest)))) return false;
    this.#giveBack();
    return true;
  }

  #readCall(): boolean {
    const call = this.#call!;
    const shown = call.shown;
    const before = call.text.length;
    const fragment = call.read(this.#buffer, this.#accepts);
    this.#consume(call.text.length - before);
    if (call.state === "failed") {
      this.#giveBack();
      return true;
    }
    if (call.shown) this.#addPiece(call, shown, fragment);
    if (call.state === "open") return false;
    this.#raw = "";
    this.#space = "";
    this.#call = null;
    this.#state = "between";
    return true;
  }

  /** Whether JSON is a call: one that no mark announces must have arguments and the name of a tool. */
  readonly #accepts = (name: string, hasArguments: boolean): boolean =>
    this.#announced || this.#count > 0 || (hasArguments && this.#options.names.has(name));

  #addPiece({ name }: JsonCall, again: boolean, fragment: string): void {
    if (!again) this.#count++;
    const index = this.#count - 1;
    if (index > 0 && !this.#options.parallel) return;
    if (again && fragment === "") return;
    const head = again ? {} : { id: this.#format.makeId(), name: name! };
    this.#calls.push({ index, ...head, arguments: fragment });
  }

  #consume(length: number): void {
    this.#raw += this.#buffer.slice(0, length);
    this.#buffer = this.#buffer.slice(length);
  }

  /** Turns what looked like a call into content, and what follows into text. */
  #giveBack(): void {
    const marksOnly = this.#count > 0 && this.#call === null;
    this.#content += marksOnly ? "" : this.#space + this.#raw;
    this.#raw = "";
    this.#space = "";
    this.#call = null;
    this.#state = "text";
  }
}
