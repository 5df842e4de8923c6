/** Code between fences, as Markdown has it. */
export interface CodeBlock {
  /** The first word after the fence in lower case, or "". */
  language: string;
  code: string;
}

/** Reads text line by line and knows what is code. */
export class FenceReader {
  #fence = "";
  #language = "";
  #lines: string[] = [];

  /** The code block that is open, as far as it goes. */
  get open(): CodeBlock | null {
    if (this.#fence === "") return null;
    return { language: this.#language, code: this.#lines.map((line) => `${line}\n`).join("") };
  }

  /** What a line without its end is. A closing fence is at least as long as the one that it closes. */
  take(line: string): "text" | "code" | "opens" | "closes" {
    const [, fence, words] = /^ {0,3}(`{3,}|~{3,})(.*)$/.exec(line) ?? [];
    if (this.#fence === "") {
      // A backtick after it makes it code in the midst of text.
      if (fence === undefined || (fence.startsWith("`") && words.includes("`"))) return "text";
      this.#fence = fence;
      this.#language = (words.trim().split(/[\s{,]/)[0] ?? "").toLowerCase();
      this.#lines = [];
      return "opens";
    }
    if (fence?.startsWith(this.#fence) && words.trim() === "") {
      this.#fence = "";
      return "closes";
    }
    this.#lines.push(line);
    return "code";
  }
}

/** The code blocks of a text; the last may be open still. */
export function codeBlocks(text: string): CodeBlock[] {
  const reader = new FenceReader();
  const blocks: CodeBlock[] = [];
  for (const line of text.split(/\r?\n/)) {
    const { open } = reader;
    if (reader.take(line) === "closes") blocks.push(open!);
  }
  return reader.open ? [...blocks, reader.open] : blocks;
}
