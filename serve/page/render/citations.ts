import { t } from "../messages.en.ts";
import { plain } from "./markdown.ts";

/** Code, links and tags stay as they are; what is left is text, where marks are looked for. */
const PARTS = /<(code|a|pre)\b[\s\S]*?<\/\1>|<[^>]*>|\[(\d{1,3})\]/g;

/** Marks such as [1] as buttons, and sentences that no source has underlined. `html` is clean, and so is what it becomes. */
export function withCitations(html: string, unsupported: readonly string[] = []): string {
  const marked = html.replace(PARTS, (part, _tag, digits: string | undefined) =>
    digits === undefined
      ? part
      : `<button type="button" class="cite" data-cite="${digits}" aria-label="${plain(t.sources.open(digits))}">${digits}</button>`,
  );
  return unsupported.reduce((text, sentence) => {
    const written = plain(sentence).replace(/'/g, "&#39;");
    return text.replace(written, () => `<u title="${plain(t.sources.notFrom)}">${written}</u>`);
  }, marked);
}
