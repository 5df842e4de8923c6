/** The keys under which models write the arguments. */
const ARGUMENTS = ["arguments", "parameters"];

/**
 * Reads one call, `{"name": …, "arguments": {…}}`, character by character, so that its arguments can be passed on before it
 * ends. Only the outline is checked: a model may write anything within the arguments.
 */
export class JsonCall {
  state: "open" | "done" | "failed" = "open";
  name: string | null = null;
  /** Whether the name and all arguments read so far have been passed on. */
  shown = false;
  text = "";
  #depth = 0;
  #inString = false;
  #escaped = false;
  #key: string | null = null;
  /** Where the string or value being read begins in `text`. */
  #start = 0;
  #valueOpen = false;
  /** Arguments read and not yet passed on; null before the first. */
  #arguments: string | null = null;
  #streaming = false;
  readonly #bare: boolean;

  /** @param name the function, if it was written before and the object is the arguments. */
  constructor(name: string | null = null) {
    this.name = name;
    this.#bare = name !== null;
  }

  /**
   * Reads on to the end of the call.
   * @param accepts whether a function's name, with or without arguments, makes a call; asked once.
   * @returns the JSON text of the arguments to pass on, once `shown`.
   */
  read(text: string, accepts: (name: string, hasArguments: boolean) => boolean): string {
    for (const char of text) {
      this.text += char;
      if (this.#bare) this.#readBare(char);
      else this.#readChar(char);
      if (this.state !== "open") break;
    }
    if (this.state === "failed") return "";
    const isDone = this.state === "done";
    if (isDone && !this.shown && this.name === null) this.state = "failed";
    const isReady = this.name !== null && (this.#arguments !== null || isDone);
    if (!this.shown && isReady && this.state !== "failed") {
      this.shown = accepts(this.name!, this.#arguments !== null);
      if (!this.shown) this.state = "failed";
      if (isDone) this.#arguments ??= "{}";
    }
    if (!this.shown) return "";
    const fragment = this.#arguments ?? "";
    this.#arguments = "";
    return fragment;
  }

  #readBare(char: string): void {
    this.#arguments = (this.#arguments ?? "") + char;
    this.#nest(char);
    if (this.#depth === 0) this.state = "done";
  }

  /** Follows strings and brackets; returns whether the character is in or at the end of a string. */
  #nest(char: string): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (char === "\\") this.#escaped = true;
      else if (char === '"') this.#inString = false;
      return true;
    }
    if (char === '"') this.#inString = true;
    else if (char === "{" || char === "[") this.#depth++;
    else if (char === "}" || char === "]") this.#depth--;
    return false;
  }

  #readChar(char: string): void {
    const depth = this.#depth;
    const wasInString = this.#nest(char);
    if (this.#streaming) this.#arguments += char;
    if (depth === 0) return;
    if (wasInString) {
      if (depth === 1 && !this.#inString) this.#endString();
    } else if (depth === 1) this.#readOuter(char);
    else if (this.#depth === 1) this.#streaming = false;
  }

  /** A character between the keys and values of the call. */
  #readOuter(char: string): void {
    if (char === '"') this.#start = this.text.length - 1;
    else if (char === ":") this.#valueOpen = true;
    else if (char === ",") {
      this.#key = null;
      this.#valueOpen = false;
    } else if (char === "{" && this.#valueOpen && ARGUMENTS.includes(this.#key ?? "")) {
      this.#streaming = true;
      this.#arguments = (this.#arguments ?? "") + char;
    } else if (char === "}") this.state = "done";
    else if (char === "]") this.state = "failed";
  }

  #endString(): void {
    let value: string;
    try {
      value = JSON.parse(this.text.slice(this.#start));
    } catch {
      this.state = "failed";
      return;
    }
    if (!this.#valueOpen) this.#key = value;
    else if (this.#key === "name") this.name = value;
    // Some models write the arguments as JSON text.
    else if (ARGUMENTS.includes(this.#key ?? "")) this.#arguments = value;
  }
}
