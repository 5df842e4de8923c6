import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ChatServer, chatServer } from "./support/chat_server.ts";
import { wordDocument, wordParagraph } from "./support/documents.ts";

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
let server: ChatServer;
let [ada, ben]: Record<string, string>[] = [];
beforeAll(async () => {
  server = await chatServer("documents", "multi");
  const { users } = await server.host.open();
  const key = async (name: string) =>
    bearer((await users.addKey((await users.add(name, "member")).id)).token);
  [ada, ben] = [await key("ada"), await key("ben")];
});
afterAll(() => server.server.close(0));

async function upload(form: FormData | string, headers: Record<string, string> = ada) {
  const response = await fetch(`${server.url}/api/upload`, { method: "POST", body: form, headers });
  return { status: response.status, body: await response.json() };
}

function formOf(name: string, content: Uint8Array | string, metadata?: unknown): FormData {
  const form = new FormData();
  form.append("file", new Blob([content as never]), name);
  if (metadata !== undefined)
    form.append("metadata", typeof metadata === "string" ? metadata : JSON.stringify(metadata));
  return form;
}

async function settled(id: string) {
  for (let i = 0; i < 600; i++) {
    const { body } = await server.ask("GET", `/api/documents/${id}`, undefined, ada);
    if (body.state === "ready" || body.state === "failed") return body;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("not read within 30 s");
}

describe("documents by /api", () => {
  it("are uploaded as the seed has it, read, found, shown and deleted", async () => {
    const returns = wordDocument(wordParagraph("Goods may be returned within 30 days with the receipt."));
    const sent = await upload(formOf("réturns & co.docx", returns, { user_id: "ada", data_type: "text" }));
    expect(sent).toMatchObject({
      status: 202,
      body: { job_id: expect.any(String), documents: [{ state: "queued", name: "réturns & co.docx" }] },
    });
    const { id } = sent.body.documents[0];
    expect(await settled(id)).toMatchObject({
      state: "ready",
      kind: "docx",
      chunks_made: 1,
      chunks_indexed: 1,
    });
    expect(await upload(formOf("again.docx", returns))).toMatchObject({
      status: 200,
      body: { job_id: null, documents: [{ id }] },
    });
    const { body } = await server.ask(
      "POST",
      "/api/retrieve",
      { query: "How many days for returned goods?" },
      ada,
    );
    expect(body).toMatchObject({ answered: true, passages: [{ document_id: id, start_char: 0 }] });
    const { chunks } = (await server.ask("GET", `/api/documents/${id}/chunks`, undefined, ada)).body;
    expect(chunks[0].text).toBe("Goods may be returned within 30 days with the receipt.");
    const bytes = await fetch(`${server.url}/api/documents/${id}/content`, { headers: ada });
    expect(bytes.headers.get("content-disposition")).toBe(
      "attachment; filename*=UTF-8''r%C3%A9turns%20%26%20co.docx",
    );
    expect(bytes.headers.get("content-type")).toBe("application/octet-stream");
    expect(Buffer.from(await bytes.arrayBuffer()).equals(returns)).toBe(true);
    expect((await server.ask("GET", "/api/documents", undefined, ada)).body).toMatchObject({
      documents: [{ id }],
      bytes: returns.length,
    });

    for (const [method, path] of [
      ["GET", ""],
      ["GET", "/chunks"],
      ["GET", "/content"],
      ["DELETE", ""],
    ] as const)
      expect((await server.ask(method, `/api/documents/${id}${path}`, undefined, ben)).status, path).toBe(
        404,
      );
    expect(
      (await server.ask("POST", "/api/retrieve", { query: "returned goods" }, ben)).body.passages,
    ).toEqual([]);
    expect((await server.ask("DELETE", `/api/documents/${id}`, undefined, ada)).status).toBe(204);
    expect((await server.ask("POST", "/api/retrieve", { query: "returned goods" }, ada)).body).toMatchObject({
      passages: [],
      answered: false,
    });
  });

  it("are refused in one line, whatever is sent", async () => {
    const cases: [FormData | string, Record<string, string>, number, string][] = [
      [new FormData(), {}, 422, "no_file"],
      [formOf("a", "text", "no json"), {}, 422, "invalid_metadata"],
      [formOf("a", "text", { user: "ada" }), {}, 422, "invalid_metadata"],
      [formOf("a", "text", { user_id: "ben" }), {}, 403, "*"],
      [formOf("a", ""), {}, 422, "empty_file"],
      ["--x\r\nbroken", { "content-type": "multipart/form-data; boundary=x" }, 400, "invalid_form"],
      ["nothing", { "content-type": "multipart/form-data" }, 400, "invalid_form"],
      ["{}", { "content-type": "text/plain" }, 415, "unsupported_media_type"],
    ];
    for (const [form, headers, status, code] of cases) {
      const { body, ...answer } = await upload(form, { ...ada, ...headers });
      expect([answer.status, body.error?.code], JSON.stringify(body)).toEqual([
        status,
        code === "*" ? body.error.code : code,
      ]);
      expect(body.error.message).not.toContain("\n");
    }
    expect((await upload(formOf("a", "text"), {})).status).toBe(401);
    const elsewhere = await fetch(`${server.url}/api/retrieve`, {
      method: "POST",
      body: formOf("a", "b"),
      headers: ada,
    });
    expect(elsewhere.status).toBe(415);
    expect((await server.ask("GET", "/api/documents", undefined, ada)).body.documents).toEqual([]);
  });

  it("keep names as names", async () => {
    for (const name of [
      "../../etc/passwd",
      "..\\x.txt",
      "a\u0000b.txt",
      `${"n".repeat(299)}.txt`,
      "\u202etxt.exe",
    ]) {
      const { status, body } = await upload(formOf(name, `words of ${name.length} ${Math.random()}`));
      expect(status, name).toBe(202);
      expect(body.documents[0].name).not.toMatch(/[/\\\p{Cc}\u202e]/u);
      await settled(body.documents[0].id);
    }
  });

  it("a file that is too large is refused while it comes", async () => {
    const { status, body } = await upload(formOf("large.txt", Buffer.alloc(51e6, "a")));
    expect([status, body.error.code]).toEqual([413, "file_too_large"]);
  });
});
