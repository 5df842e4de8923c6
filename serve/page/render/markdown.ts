import DOMPurify from "dompurify";
import { Lexer, Marked, type Token, type Tokens, type TokensList } from "marked";

/** A part of a text between two blank lines or so, which nothing after it changes. */
export type Block =
  | { kind: "html"; html: string }
  | { kind: "code"; language: string; code: string; closed: boolean };

const tags =
  "p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td a small sub sup kbd input";
/** Attributes that hold no address. */
const harmlessAttributes = ["title", "align", "start", "target", "rel", "type", "checked", "disabled"];
const allowed = {
  ALLOWED_TAGS: [...tags.split(" "), "#text"],
  ALLOWED_ATTR: ["href", ...harmlessAttributes],
  ADD_URI_SAFE_ATTR: harmlessAttributes,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};
/** The only tags of HTML in an answer that are more than text. */
const harmless = /^<\/?(?:br|sub|sup|kbd|strong|em|b|i)\s*\/?>$/i;
const escaped: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
export const plain = (text: string): string => text.replace(/[&<>"]/g, (char) => escaped[char]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => (harmless.test(text.trim()) ? text : plain(text)),
    // Nothing is fetched because an answer says so: a picture is a link that a person may follow.
    image: ({ href, text }) => anchor(href, plain(text || href)),
    link({ href, tokens }) {
      return anchor(href, this.parser.parseInline(tokens));
    },
    // A heading of an answer is below the page's own.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

/** A link that says where it leads. */
function anchor(href: string, html: string): string {
  const host = URL.canParse(href) ? new URL(href).host : "";
  const where = host && !html.includes(host) ? ` <small>(${plain(host)})</small>` : "";
  return `<a href="${plain(href)}" target="_blank" rel="noopener noreferrer">${html}</a>${where}`;
}

/** What is put in after the cleaning; a tag in the text of an answer is not written like this any more. */
const additions: [RegExp, string][] = [
  [/<input /g, '<input aria-hidden="true" '],
  [/<pre>/g, '<pre tabindex="0">'],
  [/<table>/g, '<div class="scroll" tabindex="0"><table>'],
  [/<\/table>/g, "</table></div>"],
];

function htmlOf(tokens: Token[]): string {
  const html = DOMPurify.sanitize(marked.parser(tokens as TokensList), allowed);
  return additions.reduce((text, [tag, replacement]) => text.replace(tag, replacement), html);
}

const fenceEnd = /\n {0,3}(?:`{3,}|~{3,})[ \t]*\n*$/;

function blockOf(token: Token, closed: boolean): Block {
  if (token.type !== "code") return { kind: "html", html: htmlOf([token]) };
  const { text, lang = "", raw } = token as Tokens.Code;
  const language = /^[\w+#.-]*/.exec(lang)![0].toLowerCase();
  return { kind: "code", language, code: text, closed: closed || fenceEnd.test(raw) };
}

/** What may become the marker of a list's next item. */
const marker = /^ {0,3}(?:\d{1,9}[.)]?|[-*+])$/;

/** The first token that what follows may change: the last one, or a list before what may be its next item. */
function firstOpen(tokens: readonly Token[]): number {
  const last = (end: number) => tokens.findLastIndex(({ type }, index) => index < end && type !== "space");
  const end = Math.max(0, last(tokens.length));
  const before = last(end);
  return marker.test(tokens[end]?.raw ?? "") && tokens[before]?.type === "list" ? before : end;
}

/** Milliseconds between two steps at most, however long one takes. */
const longestWait = 500;

/** A list longer than this is cut between its items, so that what is parsed at each step stays small. */
const longList = 4000;

/**
 * The blocks of a text that grows. Those that nothing can change any more are parsed once and stay the same objects; the last
 * one is parsed anew at each step, more seldom the longer that takes.
 */
export class Blocks {
  #closed: Block[] = [];
  #consumed = "";
  #last: readonly Block[] = [];
  #waitUntil = 0;
  /** Milliseconds of a step; of one that something else interrupted, twice those of the one before. */
  #cost = 0;
  #ended = false;
  /** Milliseconds until the last text that was given may be parsed; 0: it is. */
  heldBack = 0;

  /** `finished`: nothing will follow. */
  update(source: string, finished: boolean): readonly Block[] {
    const begun = performance.now();
    this.heldBack = finished ? 0 : Math.max(0, this.#waitUntil - begun);
    if (this.heldBack > 0) return this.#last;
    const text = source.replace(/\r\n?/g, "\n");
    // An answer may go on after its end, inside what was its last block.
    const goesOn = this.#ended && (!finished || text.length !== this.#consumed.length);
    this.#ended = finished;
    if (goesOn || !text.startsWith(this.#consumed)) {
      this.#closed = [];
      this.#consumed = "";
    }
    const tokens = new Lexer(marked.defaults).lex(text.slice(this.#consumed.length));
    const end = finished ? tokens.length : firstOpen(tokens);
    for (const token of tokens.slice(0, end)) this.#close(token);
    const open = tokens.slice(end).filter(({ type }) => type !== "space" && type !== "def");
    if (open[0]?.type === "list" && open[0].raw.length > longList)
      open[0] = this.#cutList(open[0] as Tokens.List);
    this.#last = [...this.#closed, ...open.map((token) => blockOf(token, false))];
    this.#cost = Math.min(performance.now() - begun, 2 * this.#cost + 1);
    this.#waitUntil = begun + Math.min(8 * this.#cost, longestWait);
    return this.#last;
  }

  #close(token: Token): void {
    this.#consumed += token.raw;
    if (token.type !== "space" && token.type !== "def")
      this.#closed = [...this.#closed, blockOf(token, true)];
  }

  /** Closes all items of a list but the last, which stays open as a list of its own. */
  #cutList(list: Tokens.List): Token {
    const items = list.items.slice(0, -1);
    const raw = items.map((item) => item.raw).join("");
    if (items.length === 0 || !list.raw.startsWith(raw)) return list;
    this.#close({ ...list, items, raw });
    const start = typeof list.start === "number" ? list.start + items.length : list.start;
    return { ...list, items: list.items.slice(-1), raw: list.raw.slice(raw.length), start };
  }
}
