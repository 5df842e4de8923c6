import { Template } from "@huggingface/jinja";
import type { Tokenizer } from "../tokenizer.ts";
import { type ChatMessage, type Conversation, ConversationError, checkConversation } from "./conversation.ts";

/**
 * The template for models without one of their own: ChatML, with tools and tool calls in the style of the Hermes models.
 * The turn-end token is inside the generation block, so a model trained with it learns to stop.
 */
export const CHATML = `{%- if tools %}{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}{{ '# Tools\\nCall a function with <tool_call>{"name": ..., "arguments": {...}}</tool_call>.\\n<tools>\\n' }}{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}{{ '</tools><|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message.content }}{% for call in message.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- elif not (tools and loop.first and message.role == 'system') %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
`;

/** Turns as lines of text, which is how a server asks a model that has no chat template: what it answers begins a line. */
export const PLAIN_TURNS = `{%- for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ '\\n' + message.content + eos_token }}{% endgeneration %}{% else %}{{ ('' if loop.first else '\\n') + message.content }}{% endif %}{% endfor %}`;

/** A range of a text in UTF-16 units, without its end. */
export type TextSpan = [start: number, end: number];

export interface RenderOptions {
  /** Whether to end the text with the beginning of an assistant turn. Default false. */
  addGenerationPrompt?: boolean;
  /** Whether to end the text within the last message, which the model then continues. Default false. */
  continueFinalMessage?: boolean;
  /** Further variables for the template, such as enable_thinking. */
  variables?: Record<string, unknown>;
}

/** A conversation rendered as text. */
export interface RenderedChat {
  text: string;
  /** The contents of the template's generation blocks: what the assistant says, with its turn-end token. */
  spans: TextSpan[];
  /** The same text as the input of `Tokenizer.encodePieces`. */
  pieces: (string | number)[];
}

/** A conversation encoded as tokens. */
export interface EncodedChat {
  text: string;
  ids: number[];
  /** 1 for each token that the assistant says, its turn-end token included, else 0. */
  assistantMask: Uint8Array;
}

/**
 * Replaces generation tags, which the Jinja library ignores, by statements that print a marker. They are statements and not
 * expressions so that white space around them is trimmed in the same way.
 */
function speakingTags(source: string): string {
  return source.replace(
    /\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} if true %}{{ kiln_${end ? "close" : "open"} }}{% endif ${right}%}`,
  );
}

/** Applies `change` to every string in a value, keys included. */
function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change)]),
  );
}

/** Plain text, or the id of a special token. */
type Piece = string | number;
type Encoded = Awaited<ReturnType<Tokenizer["encodePieces"]>>;

/** Characters that are not text: a guard inside a special token's name, generation blocks, the end of a message to continue. */
type Marks = Record<"guard" | "open" | "close" | "end", string>;

/** Four characters of the private use area that do not occur in the texts. */
function unusedCharacters(texts: string): Marks {
  const found: string[] = [];
  for (let code = 0xe000; found.length < 4 && code <= 0xf8ff; code++) {
    const char = String.fromCharCode(code);
    if (!texts.includes(char)) found.push(char);
  }
  if (found.length < 4)
    throw new ConversationError("the conversation uses the whole private use area of Unicode");
  const [guard, open, close, end] = found;
  return { guard, open, close, end };
}

/** A pattern for any of some texts, the longest first. */
function anyOf(texts: readonly string[]): string {
  const escaped = texts.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return escaped.sort((a, b) => b.length - a.length).join("|");
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0];
}

/** The rendered text up to the end of the message to continue, as transformers cuts it. */
function upToEnd(rendered: string, end: string): string {
  const at = rendered.lastIndexOf(end);
  if (at < 0) throw new ConversationError("the chat template does not show the last message as it is");
  const text = rendered.slice(0, at);
  return rendered[at + 1] === " " ? text : text.trimEnd();
}

/**
 * A chat template (Jinja, rendered as in transformers) for one tokenizer. Special tokens are recognised only where the
 * template writes them. In a message they are plain text, so no message can end its own turn.
 */
export class ChatTemplate {
  readonly source: string;
  readonly #template: Template;
  readonly #tokenizer: Tokenizer;
  readonly #special: ReadonlyMap<string, number>;
  /** Finds names of special tokens of at least two characters. */
  readonly #names: RegExp;
  /** What they begin with, and the characters of the longest of these. */
  readonly #beginnings: ReadonlySet<string>;
  readonly #longest: number;
  readonly #hasBlocks: boolean;

  /**
   * @param source the template; default: the tokenizer's own, or `CHATML` if it has none
   * @throws ConversationError if the template cannot be parsed.
   */
  constructor(tokenizer: Tokenizer, source: string = tokenizer.chatTemplate ?? CHATML) {
    this.source = source;
    this.#tokenizer = tokenizer;
    const speaking = speakingTags(source);
    this.#hasBlocks = speaking !== source;
    try {
      this.#template = new Template(speaking);
    } catch (error) {
      throw new ConversationError(
        `the chat template cannot be parsed: ${firstLine(error)}; correct chat_template.jinja, or chat_template in tokenizer_config.json`,
        error,
      );
    }
    const added = tokenizer.json.added_tokens ?? [];
    this.#special = new Map(added.filter(({ special }) => special).map(({ content, id }) => [content, id]));
    const names = [...this.#special.keys()].filter((name) => name.length > 1);
    this.#names = names.length === 0 ? /(?!)/ : new RegExp(anyOf(names), "gu");
    this.#longest = Math.max(0, ...names.map((name) => name.length - 1));
    const beginnings = (name: string) =>
      Array.from({ length: name.length - 1 }, (_, i) => name.slice(0, i + 1));
    this.#beginnings = new Set(names.flatMap(beginnings));
  }

  /** Renders a conversation. Throws ConversationError, in one line, if the template raises an error. */
  render(conversation: Conversation, options: RenderOptions = {}): RenderedChat {
    const { messages, tools } = checkConversation(conversation);
    const all = JSON.stringify([this.source, messages, tools, options.variables, ...this.#special.keys()]);
    const marks = unusedCharacters(all);
    const guarded = (value: unknown) => mapStrings(value, (text) => this.#guard(text, marks.guard));
    const isContinued = options.continueFinalMessage ?? false;
    const shown = messages.map(({ weight: _, ...message }) => guarded(message) as ChatMessage);
    // The space tells whether the template keeps white space at the end of a message.
    if (isContinued) shown.at(-1)!.content += `${marks.end} `;
    const name = (id: number | null) => (id === null ? "" : this.#tokenizer.idToToken(id));
    const variables = {
      bos_token: name(this.#tokenizer.bosId),
      eos_token: name(this.#tokenizer.eosId),
      pad_token: name(this.#tokenizer.padId),
      ...options.variables,
      messages: shown,
      tools: tools === undefined ? null : guarded(tools),
      add_generation_prompt: options.addGenerationPrompt ?? false,
      kiln_open: marks.open,
      kiln_close: marks.close,
    };
    let rendered: string;
    try {
      rendered = this.#template.render(variables);
    } catch (error) {
      throw new ConversationError(`the chat template refuses this conversation: ${firstLine(error)}`, error);
    }
    return this.#cut(isContinued ? upToEnd(rendered, marks.end) : rendered, marks);
  }

  /** Encodes a conversation and marks what the assistant says. Throws ConversationError like `render`. */
  async encode(conversation: Conversation, options: RenderOptions = {}): Promise<EncodedChat> {
    const { text, spans, pieces } = this.render(conversation, options);
    const { ids, ranges } = await this.#tokenizer.encodePieces(pieces);
    return { text, ids, assistantMask: maskOf(text, ranges, spans) };
  }

  /**
   * Encodes a conversation for training: like `encode`, but assistant turns of weight 0 are not marked, and if the template
   * has no generation blocks, the assistant turns are found by rendering the conversation turn by turn.
   * @throws ConversationError if no token is marked, if a marked turn does not end with a token that ends generation, or if
   * the assistant turns cannot be found.
   */
  async encodeForTraining(conversation: Conversation, options: RenderOptions = {}): Promise<EncodedChat> {
    const { text, spans, pieces } = this.render(conversation, options);
    const turns = conversation.messages.filter(({ role }) => role === "assistant");
    const found = this.#hasBlocks ? spans : this.#spansByTurn(text, conversation, options);
    const learned = this.#learned(found, turns);
    const { ids, ranges } = await this.#encodeTurns(text, pieces, learned);
    for (const span of learned) this.#checkStop(ids, maskOf(text, ranges, [span]));
    const assistantMask = maskOf(text, ranges, learned);
    if (assistantMask.includes(1)) return { text, ids, assistantMask };
    throw new ConversationError(
      "this conversation has nothing to learn from: it has no assistant turn, or only turns of weight 0; leave it out",
    );
  }

  /**
   * Encodes pieces with a boundary of tokens where each turn begins, as there is one where a model is asked for it: what is learned of
   * a token that spans the end of the line before and the indentation of the turn is never asked for.
   */
  async #encodeTurns(text: string, pieces: readonly Piece[], turns: readonly TextSpan[]): Promise<Encoded> {
    const whole = await this.#tokenizer.encodePieces(pieces);
    const places = placesOf(text);
    const starts = turns
      .map(([start]) => start)
      .filter((start) => whole.ranges.some(([from, to]) => from < places[start]! && places[start]! < to));
    if (starts.length === 0) return whole;
    const names = (piece: Piece) => (typeof piece === "string" ? piece : this.#tokenizer.idToToken(piece)!);
    const ids: number[] = [];
    const ranges: TextSpan[] = [];
    let place = 0;
    for (const part of cutPieces(pieces, names, starts)) {
      const encoded = await this.#tokenizer.encodePieces(part);
      for (const id of encoded.ids) ids.push(id);
      for (const [from, to] of encoded.ranges) ranges.push([place + from, place + to]);
      place += [...part.map(names).join("")].length;
    }
    // One that begins every text with a space would have added some.
    const isSame = this.#tokenizer.decode(ids) === this.#tokenizer.decode(whole.ids);
    return isSame ? { ids, ranges } : whole;
  }

  /** Breaks up special tokens in a message, and their beginnings at its end, which the next message might complete. */
  #guard(text: string, guard: string): string {
    let safe = text;
    // A name within a name is found once the outer one is broken up.
    while (safe.search(this.#names) >= 0)
      safe = safe.replace(this.#names, (found) => found[0] + guard + found.slice(1));
    const ends = Array.from({ length: this.#longest }, (_, i) => safe.slice(-i - 1));
    const isBeginning = ends.some((end) => this.#beginnings.has(end));
    return isBeginning ? safe + guard : safe;
  }

  /** Removes the markers from a rendered text and records their positions. */
  #cut(rendered: string, marks: Marks): RenderedChat {
    const parts = anyOf([...this.#special.keys(), ...Object.values(marks)]);
    const spans: TextSpan[] = [];
    const pieces: (string | number)[] = [];
    let text = "";
    for (const part of rendered.split(new RegExp(`(${parts})`, "u"))) {
      if (part === marks.open) spans.push([text.length, text.length]);
      else if (part === marks.close && spans.length > 0) spans.at(-1)![1] = text.length;
      else if (!Object.values(marks).includes(part) && part !== "") {
        text += part;
        pieces.push(this.#special.get(part) ?? part);
      }
    }
    return { text, spans, pieces };
  }

  /** The span of each assistant turn: from the end of everything before it to its last stop token. */
  #spansByTurn(text: string, conversation: Conversation, options: RenderOptions): TextSpan[] {
    const stops = this.#tokenizer.eosIds.map((id) => this.#tokenizer.idToToken(id)!);
    const before = (count: number, addGenerationPrompt: boolean) => {
      const messages = conversation.messages.slice(0, count);
      return this.render({ ...conversation, messages }, { ...options, addGenerationPrompt }).text;
    };
    return conversation.messages.flatMap((message, i): TextSpan[] => {
      if (message.role !== "assistant") return [];
      const start = i === 0 ? "" : before(i, true);
      const end = before(i + 1, false);
      if (i === 0 || !end.startsWith(start) || !text.startsWith(end)) {
        throw new ConversationError(
          "the chat template does not say which part is the assistant's, and rendering turn by turn does not tell; put {% generation %} … {% endgeneration %} around it",
        );
      }
      const stop = Math.max(...stops.map((name) => end.lastIndexOf(name) + name.length));
      return [[start.length, stop > start.length ? stop : end.length]];
    });
  }

  /** The spans without those of turns with weight 0. */
  #learned(spans: readonly TextSpan[], turns: readonly ChatMessage[]): TextSpan[] {
    if (turns.every(({ weight }) => weight !== 0)) return [...spans];
    if (spans.length === turns.length) return spans.filter((_, i) => turns[i].weight !== 0);
    throw new ConversationError(
      `a turn has weight 0, but the chat template has ${spans.length} generation blocks for ${turns.length} turns; leave the weight out`,
    );
  }

  /** The last token of a span, not counting white space, must be one that ends generation. */
  #checkStop(ids: readonly number[], mask: Uint8Array): void {
    const said = ids.filter((_, i) => mask[i] === 1);
    const last = said.findLast(
      (id) => this.#tokenizer.decode([id], { skipSpecialTokens: false }).trim() !== "",
    );
    if (said.length === 0 || (last !== undefined && this.#tokenizer.eosIds.includes(last))) return;
    const names = this.#tokenizer.eosIds.map((id) => this.#tokenizer.idToToken(id)).join(", ") || "none";
    throw new ConversationError(
      `the chat template ends the assistant's turn with ${JSON.stringify(this.#tokenizer.decode(said.slice(-1), { skipSpecialTokens: false }))}, not with a token that ends generation (${names}), so a model would never learn to stop; end the generation block with one, or name the turn's last token as eos_token`,
    );
  }
}

/** Pieces in parts that begin at some places of their text. */
function cutPieces(
  pieces: readonly Piece[],
  nameOf: (piece: Piece) => string,
  starts: readonly number[],
): Piece[][] {
  const parts: Piece[][] = [[]];
  let end = 0;
  for (const piece of pieces) {
    const [from, name] = [end, nameOf(piece)];
    end += name.length;
    const cuts = starts.filter((start) => start > from && start < end).map((start) => start - from);
    if (starts.includes(from) && from > 0) parts.push([]);
    [0, ...cuts].forEach((cut, i) => {
      if (i > 0) parts.push([]);
      parts.at(-1)!.push(cuts.length === 0 ? piece : name.slice(cut, cuts[i]));
    });
  }
  return parts;
}

/** The code point that each UTF-16 unit of a text is of: ranges of tokens are in those, spans in these. */
function placesOf(text: string): number[] {
  const points: number[] = [];
  for (const char of text)
    for (let i = 0; i < char.length; i++) points.push((points.at(-1) ?? -1) + (i === 0 ? 1 : 0));
  return points;
}

/** 1 for each token that covers a character of a span. */
function maskOf(text: string, ranges: readonly TextSpan[], spans: readonly TextSpan[]): Uint8Array {
  const points = placesOf(text);
  const limits = spans
    .filter(([start, end]) => end > start)
    .map(([start, end]): TextSpan => [points[start], points[end - 1] + 1]);
  return Uint8Array.from(ranges, ([start, end]) =>
    limits.some((limit) => start < limit[1] && end > limit[0] && end > start) ? 1 : 0,
  );
}
