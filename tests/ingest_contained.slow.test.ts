import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import seedrandom from "seedrandom";
import { describe, expect, it, vi } from "vitest";
import { readContained } from "../serve/app/ingest/contained_read.ts";
import { extract } from "../serve/app/ingest/extract.ts";
import { Unreadable } from "../serve/app/ingest/extracted.ts";
import { pdfDocument, wordDocument, wordF1, wordParagraph, wordTable, zip } from "./support/documents.ts";

vi.setConfig({ testTimeout: 600_000 });
const reading = (content: Uint8Array, options = {}) =>
  readContained(Readable.from([content]), "file", options);

/** The sentence that a file is refused with; null: it was read. */
async function refusal(content: Uint8Array, isContained = true): Promise<string | null> {
  const error = await (isContained ? reading(content, { seconds: 6 }) : extract(content, "file")).then(
    () => null,
    (each) => each,
  );
  if (error !== null) expect(error).toBeInstanceOf(Unreadable);
  return error?.message ?? null;
}

describe("hostile files", () => {
  it("that are damaged at random are read or refused in one line", async () => {
    const random = seedrandom.alea("damaged");
    const folder = mkdtempSync(path.join(tmpdir(), "kiln-damaged-"));
    const { default: Database } = await import("libsql");
    const database = new Database(path.join(folder, "a.db"));
    database.exec("CREATE TABLE a(b TEXT, c INTEGER)");
    for (let i = 0; i < 100; i++) database.prepare("INSERT INTO a VALUES (?, ?)").run([`row ${i}`, i]);
    database.close();
    const sqlite = readFileSync(path.join(folder, "a.db"));
    rmSync(folder, { recursive: true });
    const body =
      wordParagraph("Returns", "Heading1") +
      wordTable([
        ["Item", "Days"],
        ["Shoes", "14"],
      ]);
    const sources = [
      wordDocument(body),
      pdfDocument([
        [
          [50, 700, "The first line of a page"],
          [50, 688, "and the second line of it."],
        ],
      ]),
      Buffer.from(`<html><body><p>${"words ".repeat(100)}</p></body></html>`),
      Buffer.from('{"a":[1,2,{"b":"c"}]}'),
      sqlite,
    ];
    const outcomes = { read: 0, refused: 0 };
    const one = async (i: number) => {
      const content = Buffer.from(sources[i % sources.length]);
      for (let n = 0; n <= random() * 8; n++) content[Math.floor(random() * content.length)] = random() * 256;
      const cut = random() < 0.3 ? content.subarray(0, random() * content.length) : content;
      // Native code can end its process; the others need none of their own each time.
      const said = await refusal(cut, i % sources.length === 4);
      if (said === null) outcomes.read++;
      else {
        outcomes.refused++;
        expect(said).toMatch(/^[^\n]{5,300}$/);
      }
    };
    for (let i = 0; i < 200; i += 2) await Promise.all([one(i), one(i + 1)]);
    expect(outcomes.read + outcomes.refused).toBe(200);
    expect(Math.min(outcomes.read, outcomes.refused)).toBeGreaterThan(20);
  });

  it("unpack to more than they say, or are pictures of impossible size", async () => {
    const lying = zip([{ name: "word/document.xml", data: Buffer.alloc(400_000_000, " "), claims: 1000 }]);
    expect(lying.length).toBeLessThan(2e6);
    expect(await refusal(lying)).toMatch(/memory|damaged|takes more|broke/);
    const header = Buffer.from("89504e470d0a1a0a0000000d494844520000c3500000c3500802000000", "hex");
    expect(await refusal(Buffer.concat([header, Buffer.alloc(64)]))).toMatch(/picture/);
    expect(
      await refusal(zip([{ name: "xl/workbook.xml", data: Buffer.from("<"), claims: 10e9 % 2 ** 32 }])),
    ).toMatch(/unpacks to/);
    expect(await refusal(Buffer.from("[".repeat(5_000_000)))).toMatch(/./);
  });
});

const shared = new URL("../../shared/data/docs/", import.meta.url).pathname;

describe.skipIf(!existsSync(shared))("words in pictures (../shared/data/docs)", () => {
  it("are read from a logo, and from a scanned page of a PDF", async () => {
    const { blocks } = await reading(readFileSync(`${shared}haystack-logo.png`));
    expect(blocks.map(({ text }) => text).join(" ")).toMatch(/haystack/i);
    const { default: sharp } = await import("sharp");
    const said = "Goods may be returned within thirty days of purchase";
    const picture = `<svg width="1200" height="200"><rect width="1200" height="200" fill="white"/><text x="20" y="110" font-size="44" font-family="DejaVu Sans">${said}</text></svg>`;
    const jpeg = await sharp(Buffer.from(picture)).jpeg().toBuffer();
    const { blocks: page, pages } = await reading(scanned(jpeg, 1200, 200));
    expect(pages).toBe(1);
    expect(wordF1(page.map(({ text }) => text).join(" "), said)).toBeGreaterThanOrEqual(0.95);
  });
});

/** A PDF whose only page is a picture. */
function scanned(jpeg: Buffer, width: number, height: number): Buffer {
  const head = (text: string) => Buffer.from(text, "latin1");
  const drawn = "600 0 0 100 6 600 cm /Im1 Do";
  const parts: Buffer[] = [head("%PDF-1.4\n")];
  const offsets: number[] = [];
  const object = (content: Buffer) => {
    offsets.push(parts.reduce((sum, part) => sum + part.length, 0));
    parts.push(head(`${offsets.length} 0 obj\n`), content, head("\nendobj\n"));
  };
  object(head("<< /Type /Catalog /Pages 2 0 R >>"));
  object(head("<< /Type /Pages /Kids [3 0 R] /Count 1 >>"));
  object(
    head(
      "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /XObject << /Im1 4 0 R >> >> /Contents 5 0 R >>",
    ),
  );
  const image = `<< /Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode /Length ${jpeg.length} >>`;
  object(Buffer.concat([head(`${image}\nstream\n`), jpeg, head("\nendstream")]));
  object(head(`<< /Length ${drawn.length} >>\nstream\n${drawn}\nendstream`));
  const start = parts.reduce((sum, part) => sum + part.length, 0);
  const table = offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("");
  parts.push(
    head(
      `xref\n0 6\n0000000000 65535 f \n${table}trailer << /Size 6 /Root 1 0 R >>\nstartxref\n${start}\n%%EOF`,
    ),
  );
  return Buffer.concat(parts);
}
