import type { Block } from "../retrieval/index.ts";
import { type Extracted, parser, Unreadable } from "./extracted.ts";
import { joined } from "./prose.ts";

/** A page with fewer characters is a picture of one. */
const LEAST_CHARACTERS = 20;

interface Word {
  readonly text: string;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly size: number;
}
interface Line {
  readonly cells: readonly string[];
  readonly y: number;
  readonly size: number;
}

/** What reads the words in a page that is a picture; null: it has none. */
export type ReadPicture = (picture: {
  data: Uint8ClampedArray;
  width: number;
  height: number;
  channels: number;
}) => Promise<string>;

/** The pages of a PDF. Scanned ones are read by `ocr`; those that nobody can read are named. */
export async function pdf(bytes: Uint8Array, ocr: ReadPicture): Promise<Extracted> {
  const { getDocumentProxy, extractImages } = await parser("unpdf", () => import("unpdf"));
  const document = await getDocumentProxy(new Uint8Array(bytes), { verbosity: 0 }).catch((error: Error) => {
    if (error.name === "PasswordException")
      throw new Unreadable("the file is encrypted: save it without a password");
    throw new Unreadable(`the file is damaged: ${error.message}`);
  });
  const blocks: Block[] = [];
  const notes: string[] = [];
  for (let page = 1; page <= document.numPages; page++) {
    const content = await (await document.getPage(page)).getTextContent();
    const words = content.items.flatMap((item): Word[] => {
      if (!("str" in item) || item.str.trim() === "") return [];
      const [, , , size, x, y] = item.transform as number[];
      return [{ text: item.str, x, y, width: item.width, size: Math.abs(size) || item.height || 10 }];
    });
    const own = blocksOf(linesOf(words)).map((block) => ({ ...block, page }));
    for (const block of own) blocks.push(block);
    if (own.reduce((sum, { text }) => sum + text.length, 0) >= LEAST_CHARACTERS) continue;
    const pictures = await extractImages(document, page).catch(() => []);
    const read: string[] = [];
    for (const { data, width, height, channels } of pictures)
      read.push(await ocr({ data, width, height, channels }));
    const text = read.join("\n").trim();
    if (text !== "") blocks.push({ text: joined(text.split("\n")), page, kind: "prose" });
    else if (pictures.length > 0) notes.push(`page ${page} is a picture without words that could be read`);
  }
  const { numPages: pages } = document;
  const { info } = await document.getMetadata().catch(() => ({ info: {} }));
  const named = (info as { Title?: string }).Title?.trim() ?? "";
  const title = /^(?:\(?anonymous\)?|untitled)?$/i.test(named) ? undefined : named;
  return { blocks, pages, title, notes };
}

/** Words on one line, from left to right; a wide gap parts cells. */
function linesOf(words: readonly Word[]): Line[] {
  const rows: Word[][] = [];
  for (const word of words) {
    const row = rows.at(-1);
    const near = row && Math.abs(row[0].y - word.y) < 0.4 * Math.max(word.size, row[0].size);
    const follows = row && word.x >= row.at(-1)!.x;
    if (row && near && follows) row.push(word);
    else {
      // Columns of a table may be written one after the other.
      const beside = rows.find(
        (other) => Math.abs(other[0].y - word.y) < 0.2 * word.size && isFree(other, word),
      );
      if (beside) beside.push(word);
      else rows.push([word]);
    }
  }
  return rows.map((row) => {
    row.sort((a, b) => a.x - b.x);
    const cells: string[] = [];
    let end = Number.NEGATIVE_INFINITY;
    for (const { text, x, width, size } of row) {
      const gap = x - end;
      if (gap > 0.9 * size) cells.push(text.trim());
      else cells[cells.length - 1] += (gap > 0.15 * size ? " " : "") + text.trim();
      end = x + width;
    }
    return { cells, y: row[0].y, size: Math.max(...row.map(({ size }) => size)) };
  });
}

const isFree = (row: readonly Word[], { x, width }: Word) =>
  row.every((other) => other.x + other.width <= x || x + width <= other.x);

/** Lines of several cells are a table's, larger gaps end a paragraph. */
function blocksOf(lines: readonly Line[]): Block[] {
  const blocks: Block[] = [];
  let [own, kind]: [string[], Block["kind"]] = [[], "prose"];
  const end = () => {
    const text = kind === "table" ? own.join("\n") : joined(own);
    if (text.trim() !== "") blocks.push({ text, kind });
    own = [];
  };
  for (const [i, { cells, y, size }] of lines.entries()) {
    const now = cells.length > 1 ? "table" : "prose";
    const gap = i === 0 ? 0 : Math.abs(lines[i - 1].y - y);
    const isOther = i > 0 && Math.abs(lines[i - 1].size - size) > 1;
    if (now !== kind || (now === "prose" && (gap > 1.4 * size || isOther))) end();
    kind = now;
    own.push(cells.join(" | "));
  }
  end();
  return blocks;
}
