import { KilnError } from "../../core/errors.ts";
import { splitLines } from "./readers.ts";

/** A record of a delimited text file. */
export interface DelimitedRecord {
  fields: string[];
  /** The line on which it begins, from 1. */
  line: number;
}

const delimiters = ["\t", ",", ";", "|"] as const;
export type Delimiter = (typeof delimiters)[number];
/** A record longer than this (characters) is a quote that was never closed. */
const longestRecord = 2 ** 22;

/**
 * The records of a delimited text, one at a time. A comma, semicolon or bar separates as in RFC 4180: a field in double
 * quotes may hold delimiters, line ends and doubled quotes; a quote elsewhere in a field stands for itself. A tab separates
 * lines into fields (IANA text/tab-separated-values); there a field is in quotes only if the quotes around it are well
 * formed, since texts such as `"Hi" he said` are common in such files. Blank lines are left out.
 * Errors: text after a closing quote, a quote that is never closed (both with the line).
 */
export async function* readDelimited(
  file: string,
  chunks: AsyncIterable<string>,
  delimiter: Delimiter,
): AsyncGenerator<DelimitedRecord> {
  let open: string[] = [];
  let length = 0;
  let number = 0;
  for await (const line of splitLines(file, chunks)) {
    number++;
    if (open.length === 0 && line.trim() === "") continue;
    open.push(line);
    length += line.length + 1;
    // A line without a quote cannot close a record that is open.
    if (open.length > 1 && !line.includes('"') && length < longestRecord) continue;
    const first = number - open.length + 1;
    const fields = splitRecord(open.join("\n").replace(/\r$/, ""), delimiter, `${file} line ${first}`);
    if (fields === null) {
      if (length < longestRecord) continue;
      throw unclosed(file, first);
    }
    yield { fields, line: first };
    open = [];
    length = 0;
  }
  if (open.length > 0) throw unclosed(file, number - open.length + 1);
}

function unclosed(file: string, line: number): KilnError {
  return new KilnError(
    `${file} line ${line}: a double quote opens a field and is never closed: close it, or write the quote as ""`,
    { code: "table_invalid" },
  );
}

/** The fields of a record; null if a quote is still open at its end. */
function splitRecord(text: string, delimiter: Delimiter, where: string): string[] | null {
  if (!text.includes('"')) return text.split(delimiter);
  if (delimiter === "\t") return text.split("\t").map(unquoteWellFormed);
  const fields: string[] = [];
  for (let at = 0; ; at += 1) {
    if (text[at] !== '"') {
      const end = text.indexOf(delimiter, at);
      fields.push(end < 0 ? text.slice(at) : text.slice(at, end));
      if (end < 0) return fields;
      at = end;
      continue;
    }
    const end = closingQuote(text, at);
    if (end < 0) return null;
    fields.push(text.slice(at + 1, end).replaceAll('""', '"'));
    at = end + 1;
    if (at === text.length) return fields;
    if (text[at] === delimiter) continue;
    const rest = JSON.stringify(text.slice(at, at + 20));
    throw new KilnError(
      `${where}: field ${fields.length} has the text ${rest} after its closing quote: quotes inside a quoted field are doubled ("")`,
      { code: "table_invalid" },
    );
  }
}

/** Where the field that opens with the quote at `start` closes; -1 if it does not. */
function closingQuote(text: string, start: number): number {
  let end = text.indexOf('"', start + 1);
  while (end >= 0 && text[end + 1] === '"') end = text.indexOf('"', end + 2);
  return end;
}

function unquoteWellFormed(field: string): string {
  const isQuoted = field.length > 1 && field[0] === '"' && closingQuote(field, 0) === field.length - 1;
  return isQuoted ? field.slice(1, -1).replaceAll('""', '"') : field;
}

/**
 * The delimiter with which most of the first records have the same number of fields, more than one; a comma if there is
 * none. `start` is the beginning of a text.
 */
export async function detectDelimiter(start: string): Promise<Delimiter> {
  const scores = await Promise.all(
    delimiters.map(async (delimiter) => {
      const counts = new Map<number, number>();
      let records = 0;
      try {
        for await (const { fields } of readDelimited("", single(start), delimiter)) {
          counts.set(fields.length, (counts.get(fields.length) ?? 0) + 1);
          if (++records === 100) break;
        }
      } catch {
        // The start may end inside of a record, and quotes are not well formed with every delimiter.
      }
      const [fields, agreeing] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [1, 0];
      return { delimiter, fields, share: fields > 1 ? agreeing / records : 0 };
    }),
  );
  const [best] = scores.sort((a, b) => b.share - a.share || b.fields - a.fields);
  return best.share > 0 ? best.delimiter : ",";
}

async function* single(text: string): AsyncGenerator<string> {
  yield text;
}
