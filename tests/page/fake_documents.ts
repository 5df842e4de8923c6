import type { Citation, Document, DocumentList, Explained, Passage } from "../../serve/app/protocol.ts";
import type { Handler } from "./reports.ts";

const at = Date.UTC(2026, 10, 20, 9);

const document = (id: string, name: string, values: Partial<Document> = {}): Document => ({
  ...{
    id,
    notice_id: null,
    name,
    kind: "pdf",
    bytes: 48_200,
    sha256: "0".repeat(64),
    state: "ready",
    reason: null,
  },
  ...{ title: null, pages: 5, chunks_made: 14, chunks_indexed: 14, notes: [], facts: {}, created_at: at },
  ...values,
});

const documents: Document[] = [
  document("d1", "handbook.pdf"),
  document("d2", "a name that is far too long to stand in one line of a table on a phone.docx", {
    ...{ kind: "docx", state: "reading", chunks_made: 0 },
  }),
  document("d3", "prices.xlsx", { kind: "xlsx", state: "indexing", chunks_made: 40, chunks_indexed: 12 }),
  document("d4", "scan.pdf", { state: "failed", reason: "page 3 has no text that could be read" }),
  document("d6", `${"without-a-space-".repeat(18)}.txt`, { kind: "text" }),
  document("d5", "notes.md", { kind: "markdown", notes: ["2 hidden passages were left out"] }),
];

const texts = [
  "Our shop opened in 1987 and has been in the same street ever since.",
  "Goods may be returned within 30 days, unused and with the receipt. The money is paid back within a week.",
  "Gift cards are neither returned nor exchanged.",
];
const passages: Passage[] = texts.map((text, ordinal) => ({
  ...{ id: `k${ordinal}`, document_id: "d1", ordinal, text, page: 3, heading: "Returns" },
  ...{ start_char: 0, end_char: text.length },
}));

export const citations: Citation[] = [
  { n: 1, document_id: "d1", name: "handbook.pdf", page: 3, heading: "Returns", ordinal: 1, quote: texts[1] },
  { n: 2, document_id: "d5", name: "notes.md", page: null, heading: null, ordinal: 0, quote: texts[0] },
];

const found: Explained = {
  ...{ answered: true, ranker: "rm3", coverage: 0.81 },
  passages: passages.slice(0, 2).map((passage, i) => ({
    ...passage,
    ...{ name: "handbook.pdf", score: 7.1 - i },
    stages: { bm25: 6.2 - i, rm3: 7.1 - i, lsa: null, encoder: null },
  })),
};

/** The routes of documents, from memory. */
export const documentRoutes = (): Record<string, Handler> => ({
  "GET /api/documents": (): DocumentList => ({
    ...{ documents, bytes: 1_230_000 },
    limits: { documents: 200, fileBytes: 50e6, allBytes: 500e6, nameChars: 300 },
  }),
  "GET /api/documents/:id/chunks": () => ({ chunks: passages }),
  "DELETE /api/documents/:id": () => ({}),
  "POST /api/upload": () => ({ documents: documents.slice(0, 1), job_id: null, job_ids: [] }),
  "POST /api/retrieve": () => found,
});
