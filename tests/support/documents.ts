import { deflateRawSync } from "node:zlib";

/** Parts of a zip archive; `claims` is what its directory says of its size when unpacked. */
export interface ZipPart {
  readonly name: string;
  readonly data: Uint8Array;
  readonly claims?: number;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});
const crc32 = (data: Uint8Array) => {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
};

/** A zip archive of deflated parts. */
export function zip(parts: readonly ZipPart[]): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, claims = data.length } of parts) {
    const packed = deflateRawSync(data);
    const fields = (head: number[], tail: number[]) => {
      const out = Buffer.alloc(head.length * 2 + 16 + tail.length * 2);
      let to = 0;
      for (const value of head) to = out.writeUInt16LE(value, to);
      for (const value of [crc32(data), packed.length, claims]) to = out.writeUInt32LE(value, to);
      for (const value of tail) to = out.writeUInt16LE(value, to);
      return out.subarray(0, to);
    };
    const local = Buffer.concat([
      Buffer.from("PK\x03\x04"),
      fields([20, 0, 8, 0, 0], [Buffer.byteLength(name), 0]),
      Buffer.from(name),
      packed,
    ]);
    directory.push(
      Buffer.from("PK\x01\x02"),
      fields([20, 20, 0, 8, 0, 0], [Buffer.byteLength(name), 0, 0, 0, 0, 0, 0, at & 0xffff, at >>> 16]),
      Buffer.from(name),
    );
    locals.push(local);
    at += local.length;
  }
  const listed = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(parts.length, 8);
  end.writeUInt16LE(parts.length, 10);
  end.writeUInt32LE(listed.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...locals, listed, end]);
}

/** A Word document with a heading, a paragraph and a table of two columns. */
export function wordDocument(body: string): Buffer {
  const namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"';
  const relations = "http://schemas.openxmlformats.org";
  const part = (name: string, text: string) => ({ name, data: Buffer.from(`<?xml version="1.0"?>${text}`) });
  return zip([
    part(
      "[Content_Types].xml",
      `<Types xmlns="${relations}/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>`,
    ),
    part(
      "_rels/.rels",
      `<Relationships xmlns="${relations}/package/2006/relationships"><Relationship Id="r1" Type="${relations}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>`,
    ),
    part("word/document.xml", `<w:document ${namespace}><w:body>${body}</w:body></w:document>`),
  ]);
}

export const wordParagraph = (text: string, style = "") =>
  `<w:p>${style && `<w:pPr><w:pStyle w:val="${style}"/></w:pPr>`}<w:r><w:t>${text}</w:t></w:r></w:p>`;
export const wordTable = (rows: readonly (readonly string[])[]) =>
  `<w:tbl>${rows.map((row) => `<w:tr>${row.map((cell) => `<w:tc>${wordParagraph(cell)}</w:tc>`).join("")}</w:tr>`).join("")}</w:tbl>`;

/** A PDF of pages with lines of text: [x, y, text]. */
export function pdfDocument(
  pages: readonly (readonly (readonly [x: number, y: number, text: string])[])[],
): Buffer {
  const kids = pages.map((_, i) => `${4 + 2 * i} 0 R`).join(" ");
  const objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    `<< /Type /Pages /Kids [${kids}] /Count ${pages.length} >>`,
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ...pages.flatMap((lines, i) => {
      const drawn = lines.map(([x, y, text]) => `BT /F1 10 Tf ${x} ${y} Td (${text}) Tj ET`).join("\n");
      const resources = "/Resources << /Font << /F1 3 0 R >> >>";
      return [
        `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] ${resources} /Contents ${5 + 2 * i} 0 R >>`,
        `<< /Length ${drawn.length} >>\nstream\n${drawn}\nendstream`,
      ];
    }),
  ];
  let out = "%PDF-1.4\n";
  const offsets = objects.map((object, i) => {
    const at = out.length;
    out += `${i + 1} 0 obj\n${object}\nendobj\n`;
    return at;
  });
  const start = out.length;
  const table = offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("");
  out += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${table}trailer << /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${start}\n%%EOF`;
  return Buffer.from(out, "latin1");
}

/** Words of a text, in lower case. */
const wordsIn = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** F1 of the words of two texts, each as often as it occurs. */
export function wordF1(found: string, expected: string): number {
  const left = new Map<string, number>();
  const words = wordsIn(expected);
  for (const word of words) left.set(word, (left.get(word) ?? 0) + 1);
  const own = wordsIn(found);
  let hits = 0;
  for (const word of own) {
    const count = left.get(word) ?? 0;
    if (count > 0) hits++;
    left.set(word, count - 1);
  }
  return (2 * hits) / (own.length + words.length);
}
