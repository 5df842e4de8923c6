import { type Extracted, parser, Unreadable } from "./extracted.ts";
import { html } from "./html.ts";

/** A Word document: headings, lists, tables and paragraphs, by way of HTML. */
export async function docx(bytes: Uint8Array): Promise<Extracted> {
  const mammoth = await parser("mammoth", () => import("mammoth"));
  const { value, messages } = await mammoth.default
    .convertToHtml({ buffer: Buffer.from(bytes) })
    .catch((error: Error) => {
      throw new Unreadable(`the document is damaged: ${error.message}`);
    });
  const read = await html(value, true);
  const warnings = new Set(messages.filter(({ type }) => type === "error").map(({ message }) => message));
  return { ...read, notes: [...read.notes, ...warnings] };
}
