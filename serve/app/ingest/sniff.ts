import { type FileKind, Unreadable } from "./extracted.ts";
import { zipEntries } from "./zip.ts";

const starts = (bytes: Uint8Array, sign: string, at = 0) =>
  Buffer.from(bytes.subarray(at, at + sign.length)).toString("latin1") === sign;

/**
 * The kind of a file by its content: names and headers lie. Of text the name decides only what content cannot: Markdown and code.
 *
 * @param text the file as text, where it is that
 * @throws Unreadable of an empty file, of binary formats that nobody here reads, and what `zipEntries` refuses
 */
export function kindOf(bytes: Uint8Array, name: string, text: () => string | null): FileKind {
  if (bytes.length === 0) throw new Unreadable("the file is empty");
  const binary = binaryKind(bytes);
  if (binary) return binary;
  const decoded = text();
  if (decoded === null)
    throw new Unreadable(
      "a binary file of an unknown kind; give text, a document, a table, a picture or a sound",
    );
  return textKind(decoded, name);
}

function binaryKind(bytes: Uint8Array): FileKind | null {
  if (Buffer.from(bytes.subarray(0, 1024)).includes("%PDF-")) return "pdf";
  if (starts(bytes, "PK\x03\x04") || starts(bytes, "PK\x05\x06")) return zipKind(bytes);
  if (starts(bytes, "SQLite format 3\0")) return "sqlite";
  if (starts(bytes, "\x89PNG\r\n\x1a\n") || starts(bytes, "\xff\xd8\xff")) return "image";
  if (starts(bytes, "II*\0") || starts(bytes, "MM\0*") || (starts(bytes, "RIFF") && starts(bytes, "WEBP", 8)))
    return "image";
  if (starts(bytes, "RIFF") && starts(bytes, "WAVE", 8)) return "audio";
  if (starts(bytes, "fLaC") || starts(bytes, "ID3")) return "audio";
  // The sync of an MPEG frame of layer 3 with a bit rate and a sample rate that exist.
  const [first, second, third] = bytes;
  if (
    first === 0xff &&
    (second & 0xe6) === 0xe2 &&
    third >> 4 < 15 &&
    third >> 4 > 0 &&
    (third & 0x0c) !== 0x0c
  )
    return "audio";
  if (starts(bytes, "\xd0\xcf\x11\xe0"))
    throw new Unreadable("an old Office file (.doc, .xls): save it as .docx or .xlsx");
  return null;
}

function zipKind(bytes: Uint8Array): FileKind {
  const names = zipEntries(bytes).map(({ name }) => name);
  if (names.includes("word/document.xml")) return "docx";
  if (names.includes("xl/workbook.xml")) return "xlsx";
  throw new Unreadable("a zip archive that is neither .docx nor .xlsx: unpack it and give its files");
}

const codeNames =
  /\.(?:[cm]?[jt]sx?|py|rs|go|c|h|cc|cpp|hpp|java|kt|cs|rb|php|swift|sh|sql|lua|r|jl|wgsl|toml|ya?ml|css|ini)$/i;

function textKind(text: string, name: string): FileKind {
  const head = text.slice(0, 4096).trimStart();
  if (/^(?:<!doctype html|<html|<head|<body)/i.test(head)) return "html";
  if (/^[[{]/.test(head) && isJson(text)) return "json";
  if (codeNames.test(name) || head.startsWith("#!")) return "code";
  if (/\.(?:md|markdown)$/i.test(name)) return "markdown";
  return isTable(text, name) ? "csv" : /^#{1,6} \S/m.test(head) ? "markdown" : "text";
}

/** Whether a text is JSON, or JSON a line. */
function isJson(text: string): boolean {
  const parses = (part: string) => {
    try {
      return typeof JSON.parse(part) === "object";
    } catch {
      return false;
    }
  };
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return parses(text) || (lines.length > 1 && lines.slice(0, 5).every(parses));
}

/** Whether the lines have one delimiter equally often. One line is a table only by its name. */
function isTable(text: string, name: string): boolean {
  if (/\.(?:csv|tsv)$/i.test(name)) return true;
  const lines = text
    .split(/\r?\n/)
    .filter((line) => line !== "")
    .slice(0, 20);
  return (
    lines.length > 2 &&
    [",", ";", "\t"].some((sign) => {
      const counts = lines.map((line) => line.replace(/"[^"]*"/g, "").split(sign).length - 1);
      return (
        counts[0] > 0 &&
        counts.every((count) => count === counts[0]) &&
        !lines.some((line) => /[.!?] /.test(line))
      );
    })
  );
}
