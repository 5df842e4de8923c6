import type { Block } from "../retrieval/index.ts";

/** The paragraphs of a plain text. */
export function paragraphs(text: string): Block[] {
  return text
    .replaceAll("\r\n", "\n")
    .split(/\n[^\S\n]*\n\s*/)
    .filter((part) => part.trim() !== "")
    .map((part): Block => ({ text: joined(part.trim().split("\n")), kind: "prose" }));
}

/** Lines as one; a word that was parted at a line's end keeps its hyphen. */
export function joined(lines: readonly string[]): string {
  return lines
    .map((line) => line.trim())
    .reduce(
      (text, line) =>
        text === "" || (/\p{Ll}-$/u.test(text) && /^\p{Ll}/u.test(line)) ? text + line : `${text} ${line}`,
      "",
    );
}

/** Markdown's headings, fenced code, tables and paragraphs. */
export function markdown(text: string): Block[] {
  const blocks: Block[] = [];
  const path: string[] = [];
  let [lines, kind]: [string[], Block["kind"]] = [[], "prose"];
  let fence: string | null = null;
  const heading = () => path.filter((part) => part !== "").join(" > ") || undefined;
  const end = () => {
    const own = kind === "prose" ? joined(lines) : lines.join("\n");
    if (own.trim() !== "") blocks.push({ text: own, heading: heading(), kind });
    [lines, kind] = [[], "prose"];
  };
  for (const line of text.replaceAll("\r\n", "\n").split("\n")) {
    const mark = line.match(/^\s*(`{3,}|~{3,})/)?.[1];
    if (fence !== null) {
      if (mark?.startsWith(fence)) {
        end();
        fence = null;
      } else lines.push(line);
    } else if (mark) {
      end();
      [fence, kind] = [mark, "code"];
    } else {
      const title = line.match(/^(#{1,6})\s+(.*?)\s*#*\s*$/);
      const isRow = /^\s*\|.*\|\s*$/.test(line);
      const isItem = /^\s*(?:[-*+]|\d+[.)])\s+/.test(line);
      if (title || line.trim() === "" || isRow !== (kind === "table") || isItem) end();
      if (title) {
        path.length = Math.min(path.length, title[1].length - 1);
        while (path.length < title[1].length - 1) path.push("");
        path.push(title[2]);
        blocks.push({ text: title[2], heading: heading(), kind: "prose" });
      } else if (isRow) {
        kind = "table";
        if (!/^[\s|:-]+$/.test(line))
          lines.push(
            line
              .trim()
              .replace(/^\||\|$/g, "")
              .trim(),
          );
      } else if (line.trim() !== "") lines.push(line);
    }
  }
  end();
  return blocks;
}
