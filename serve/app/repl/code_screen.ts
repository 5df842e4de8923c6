import type { HLJSApi } from "highlight.js";
import { FenceReader } from "../sandbox/code_blocks.ts";

/** Code above this is shown plain: each of its lines would be coloured with all before it. */
const longest = 30_000;
/** SGR parameters for the classes of highlight.js. */
const colours: Record<string, string> = {
  ...{ keyword: "35", literal: "33", number: "33", string: "32", regexp: "32", comment: "90", doctag: "90" },
  ...{ title: "34", built_in: "36", type: "36", attr: "36", attribute: "36", variable: "36", meta: "33" },
  ...{ tag: "34", name: "34", section: "34", addition: "32", deletion: "31", symbol: "33", params: "" },
};
const entities: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'" };

let library: HLJSApi | null = null;
/** Loads the highlighter; without it code is shown plain. */
export async function loadHighlighter(): Promise<void> {
  library ??= (await import("highlight.js/lib/common")).default;
}

/** The lines of code with colours of a terminal; each line begins and ends without one. */
export function colouredLines(code: string, language: string): string[] {
  if (!library?.getLanguage(language) || code.length > longest) return code.split("\n");
  const { value } = library.highlight(code, { language, ignoreIllegals: true });
  const open: string[] = [];
  const set = () =>
    open
      .filter((each) => each !== "")
      .map((each) => `\x1b[${each}m`)
      .join("");
  let text = "";
  for (const [part, name, entity] of value.matchAll(
    /<span class="hljs-([\w-]+)[^"]*">|&([\w#]+);|<\/span>|[^<&]+/g,
  )) {
    if (name) open.push(colours[name] ?? "");
    else if (part === "</span>") open.pop();
    if (name || part === "</span>") text += `\x1b[0m${set()}`;
    else text += (entity ? (entities[entity] ?? part) : part).replaceAll("\n", `\x1b[0m\n${set()}`);
  }
  return text.split("\n");
}

/** Writes an answer to a terminal as it comes: text at once, code by lines, in colours. */
export class CodeScreen {
  readonly #write: (text: string) => void;
  readonly #reader = new FenceReader();
  /** Of the line that comes: what is not written yet. */
  #held = "";
  /** Whether the line that comes is text of which some is written. */
  #isText = false;

  constructor(write: (text: string) => void) {
    this.#write = write;
  }

  hear(text: string): void {
    const lines = text.split("\n");
    lines.forEach((line, i) => {
      this.#held += line;
      if (i < lines.length - 1) this.#endLine("\n");
      else if (this.#isText || !(this.#reader.open || /^ {0,3}(`{0,2}|~{0,2}|[`~]{3}.*)$/.test(this.#held))) {
        this.#isText ||= this.#held !== "";
        this.#write(this.#held);
        this.#held = "";
      }
    });
  }

  /** Writes what is held: the answer is at its end. */
  end(): void {
    if (this.#held !== "") this.#endLine("");
  }

  #endLine(end: string): void {
    const line = this.#held;
    const kind = this.#isText ? "text" : this.#reader.take(line);
    if (kind === "code") {
      const { code, language } = this.#reader.open!;
      this.#write((colouredLines(code, language).at(-2) ?? line) + end);
    } else this.#write((kind === "text" ? line : `\x1b[90m${line}\x1b[0m`) + end);
    this.#held = "";
    this.#isText = false;
  }
}
