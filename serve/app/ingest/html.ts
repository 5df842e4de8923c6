import type { Block } from "../retrieval/index.ts";
import { type Extracted, parser } from "./extracted.ts";

/** The little of the DOM that is needed here; linkedom brings no types of its own for Node. */
interface Part {
  readonly nodeType: number;
  readonly localName: string;
  readonly textContent: string;
  readonly childNodes: Iterable<Part>;
  readonly children: Iterable<Part>;
  getAttribute(name: string): string | null;
  querySelectorAll(selector: string): Iterable<Part>;
  querySelector(selector: string): Part | null;
  remove(): void;
}
interface Page extends Part {
  readonly body: Part;
  readonly title: string;
  cloneNode(deep: boolean): Page;
}

const never =
  "script,style,noscript,template,iframe,object,embed,svg,canvas,head,nav,button,select,input,textarea";
const hidden = "[hidden],[aria-hidden=true]";
const invisible =
  /display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?![.\d]*[1-9])/i;

/** A page's article, or with `whole` all of its body. What no reader sees is dropped and counted. */
export async function html(text: string, whole = false): Promise<Extracted> {
  const { parseHTML } = await parser("linkedom", () => import("linkedom"));
  const parsed = parseHTML(/<html[\s>]/i.test(text) ? text : `<html><body>${text}</body></html>`);
  const page = parsed.document as unknown as Page;
  const notes = dropHidden(page);
  const canonical = page.querySelector("link[rel=canonical]")?.getAttribute("href");
  const title = page.title.trim() || undefined;
  const article = whole ? null : await articleOf(page);
  const found = article ?? page.body;
  for (const part of [...found.querySelectorAll(never)]) part.remove();
  const writer = new Blocks();
  writer.visit(found);
  return { blocks: writer.end(), title, notes, facts: canonical ? { canonical } : {} };
}

function dropHidden(page: Page): string[] {
  const styled = [...page.querySelectorAll("[style]")].filter((part) =>
    invisible.test(part.getAttribute("style") ?? ""),
  );
  const parts = [...page.querySelectorAll(hidden), ...styled];
  const letters = parts.reduce((sum, part) => sum + part.textContent.trim().length, 0);
  for (const part of parts) part.remove();
  return letters === 0 ? [] : [`${letters} characters that a reader does not see were left out`];
}

/** The part of a page that readers come for; null where none stands out. */
async function articleOf(page: Page): Promise<Part | null> {
  const { Readability } = await parser("@mozilla/readability", () => import("@mozilla/readability"));
  const { parseHTML } = await import("linkedom");
  const found = new Readability(page.cloneNode(true) as never, { charThreshold: 200 }).parse();
  if (!found?.content) return null;
  const { body } = parseHTML(`<html><body>${found.content}</body></html>`).document as unknown as Page;
  // A short article beside much else is a guess: the whole page is better than half of it.
  return body.textContent.trim().length * 4 > page.body.textContent.trim().length ? body : null;
}

const inline = new Set([
  "a",
  "abbr",
  "b",
  "bdi",
  "bdo",
  "cite",
  "code",
  "em",
  "i",
  "kbd",
  "label",
  "mark",
  "q",
  "s",
  "samp",
  "small",
  "span",
  "strong",
  "sub",
  "sup",
  "time",
  "u",
  "var",
  "font",
  "img",
]);

/** Walks a page and writes its blocks. */
class Blocks {
  readonly #made: Block[] = [];
  readonly #path: string[] = [];
  #line = "";

  visit(part: Part): void {
    for (const child of part.childNodes) {
      const name = child.localName;
      const level = /^h([1-6])$/.exec(name ?? "")?.[1];
      if (child.nodeType === 3) this.#line += child.textContent;
      else if (child.nodeType !== 1) continue;
      else if (level) this.#heading(child.textContent, Number(level));
      else if (name === "br") this.#line += "\n";
      else if (name === "pre") this.#add(child.textContent.replace(/^\n|\s+$/g, ""), "code");
      else if (name === "table" && isData(child)) this.#add(rows(child), "table");
      else if (inline.has(name)) this.visit(child);
      else {
        this.#flush();
        this.visit(child);
        this.#flush();
      }
    }
  }

  end(): Block[] {
    this.#flush();
    return this.#made;
  }

  #heading(text: string, level: number): void {
    const title = text.replace(/\s+/g, " ").trim();
    this.#flush();
    if (title === "") return;
    this.#path.length = Math.min(this.#path.length, level - 1);
    while (this.#path.length < level - 1) this.#path.push("");
    this.#path.push(title);
    this.#add(title, "prose");
  }

  #flush(): void {
    const text = this.#line.replace(/\s+/g, " ").trim();
    this.#line = "";
    if (text !== "") this.#add(text, "prose");
  }

  #add(text: string, kind: Block["kind"]): void {
    if (kind !== "prose") this.#flush();
    const heading = this.#path.filter((part) => part !== "").join(" > ") || undefined;
    if (text.trim() !== "") this.#made.push({ text, heading, kind });
  }
}

/** Tables of one column or with tables inside only arrange a page. */
const isData = (table: Part) =>
  table.querySelector("table") === null &&
  [...table.querySelectorAll("tr")].some((row) => [...row.children].length > 1);

const rows = (table: Part) =>
  [...table.querySelectorAll("tr")]
    .map((row) => [...row.children].map((cell) => cell.textContent.replace(/\s+/g, " ").trim()).join(" | "))
    .filter((row) => /[^\s|]/.test(row))
    .join("\n");
