import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../core/platform/package_node.ts";
import { openPage, readPage } from "../../serve/http/page.ts";
import { buildPage } from "../../serve/page/build.ts";
import { hue } from "../../serve/page/render/format.ts";
import { events } from "../../serve/page/state/sse.ts";

const source = fileURLToPath(new URL("../../serve/page/", import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), "kiln-page-"));
let outputs: Awaited<ReturnType<typeof buildPage>>;
beforeAll(async () => {
  outputs = await buildPage(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the built page", () => {
  /** What the browser fetches before anything is asked for. */
  const firstOf = (entry: RegExp) => {
    const first = new Set([Object.keys(outputs).find((name) => entry.test(name))!]);
    // A set may grow while it is walked: static imports of static imports.
    for (const name of first)
      for (const { path: file, kind } of outputs[name].imports)
        if (kind === "import-statement") first.add(file);
    return first;
  };
  const weigh = (names: Iterable<string>) =>
    [...names].reduce(
      (sum, name) => sum + gzipSync(readFileSync(path.join(folder, "assets", name))).length,
      0,
    );

  it("weighs at most 60 kB of script and 12 kB of style, compressed, before anything is asked for", () => {
    const script = weigh(firstOf(/^main-.*\.js$/));
    const style = weigh(Object.keys(outputs).filter((name) => /^style-.*\.css$/.test(name)));
    console.info(`first load: ${script} bytes of script, ${style} of style`);
    expect(script).toBeLessThan(60_000);
    expect(style).toBeLessThan(12_000);
  });

  it("has React on the notice board alone, which weighs at most 150 kB with it", () => {
    const hasReact = (name: string) =>
      Object.keys(outputs[name].inputs).some((file) => /node_modules\/react(-dom|-native-web)?\//.test(file));
    const board = firstOf(/^notices-.*\.js$/);
    const script = weigh(board);
    console.info(`notice board: ${script} bytes of script`);
    expect(script).toBeLessThan(150_000);
    expect([...board].some(hasReact)).toBe(true);
    const others = Object.keys(outputs).filter((name) => !board.has(name));
    expect(others.filter(hasReact)).toEqual([]);
    expect(others.length).toBeGreaterThan(8);
    // Nor is anything of the chat's on the board, of which the page's worker keeps nothing.
    expect(readFileSync(path.join(folder, "sw.js"), "utf8")).not.toContain([...board][0]);
  });

  it("is served with names that change, a strict policy, and no script inside the HTML", async () => {
    const files = await readPage(folder);
    const pages = { "/": "/sw.js", "/notices": "/notices-sw.js" };
    for (const [place, worker] of Object.entries(pages)) {
      const html = files.get(place)!;
      const names = [...html.body.toString().matchAll(/(?:src|href)="(\/[^"]+)"/g)].map(([, name]) => name);
      expect(names.length).toBeGreaterThan(3);
      for (const name of names) {
        expect(files.has(name), name).toBe(true);
        expect(files.get(worker)!.body.toString(), name).toContain(name);
      }
      expect(html.body.toString()).not.toMatch(/<script(?![^>]*src=)|\son\w+=|\sstyle=/);
      expect(html.headers["cache-control"]).toBe("no-cache");
    }
    for (const [name, { headers }] of files) {
      expect(headers["content-security-policy"]).toMatch(/^default-src 'self';/);
      expect(headers["content-security-policy"]).not.toContain("unsafe");
      const immutable = headers["cache-control"].includes("immutable");
      expect(immutable, name).toBe(/^\/assets\/.*-[A-Z0-9]{8}\.(js|css)$/.test(name));
    }
    const workers = Object.values(pages).map((name) => files.get(name)!.body.toString());
    for (const name of files.keys())
      if (!(name in pages) && !Object.values(pages).includes(name))
        expect(
          workers.some((text) => text.includes(name)),
          name,
        ).toBe(true);
  });

  it("is built from source once, and again when a source is newer", async () => {
    const made = () => statSync(path.join(packageRoot, "dist/page/index.html")).mtimeMs;
    const files = await openPage();
    expect(files.get("/")!.body.toString()).toContain('<div id="root">');
    const first = made();
    await openPage();
    expect(made()).toBe(first);
    const before = new Date(0);
    for (const name of readdirSync(path.join(packageRoot, "dist/page"), {
      recursive: true,
      encoding: "utf8",
    }))
      utimesSync(path.join(packageRoot, "dist/page", name), before, before);
    expect([...(await openPage()).keys()]).toEqual([...files.keys()]);
    expect(made()).toBeGreaterThan(first);
  });

  it("is the same for the same source", async () => {
    const again = mkdtempSync(path.join(tmpdir(), "kiln-page-"));
    await buildPage(again);
    const [a, b] = await Promise.all([readPage(folder), readPage(again)]);
    rmSync(again, { recursive: true });
    expect([...a].map(([name, { headers }]) => [name, headers.etag])).toEqual(
      [...b].map(([name, { headers }]) => [name, headers.etag]),
    );
  });
});

/** Texts that a person would read in a component: between tags, and in attributes that are shown or read out. */
function literals(file: string, text: string): string[] {
  const shown = /^(?:aria-label|aria-description|title|alt|placeholder|label|hint|caption|text)$/;
  const found: string[] = [];
  const visit = (node: ts.Node, inside: boolean): void => {
    if (ts.isJsxText(node) && /\p{L}/u.test(node.text)) found.push(node.text.trim());
    const isText = ts.isStringLiteralLike(node) || ts.isTemplateExpression(node);
    if (isText && inside && /\p{L}/u.test(node.getText().replace(/\$\{[^}]*\}/g, "")))
      found.push(node.getText());
    ts.forEachChild(node, (child) => {
      if (ts.isJsxAttribute(node)) visit(child, shown.test(node.name.getText()));
      else if (ts.isJsxExpression(node)) visit(child, inside || !ts.isJsxAttribute(node.parent));
      else if (
        ts.isConditionalExpression(node) ||
        ts.isBinaryExpression(node) ||
        ts.isParenthesizedExpression(node)
      )
        visit(child, inside && child !== (node as ts.ConditionalExpression).condition && !isComparison(node));
      else visit(child, false);
    });
  };
  visit(ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true, ts.ScriptKind.TSX), false);
  return found;
}

const isComparison = (node: ts.Node) =>
  ts.isBinaryExpression(node) && /[=!]==|[<>]/.test(node.operatorToken.getText());

describe("the page's source", () => {
  const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".tsx"),
  );

  it("has all its texts in one file", () => {
    const found = files.flatMap((name) =>
      literals(name, readFileSync(path.join(source, name), "utf8")).map((text) => `${name}: ${text}`),
    );
    expect(found).toEqual([]);
    expect(
      literals("x.tsx", 'const x = <p title="No"><b>Yes</b>{on ? "Maybe" : y}{a === "no" && z}</p>'),
    ).toEqual([...['"No"', "Yes", '"Maybe"']]);
  });
});

describe("hues", () => {
  it("are stable and differ for names that differ little", () => {
    expect([hue("demo"), hue("demo@2"), hue("demo@3")]).toEqual([hue("demo"), hue("demo@2"), hue("demo@3")]);
    const names = Array.from({ length: 24 }, (_, i) => hue(`model-${i}`));
    expect(new Set(names.map((value) => Math.floor(value / 30))).size).toBeGreaterThan(6);
    for (const value of names) expect(value).toBeLessThan(360);
  });
});

describe("events of a stream", () => {
  it("are read whole wherever the bytes are cut", async () => {
    const sent = [
      { type: "pong", t: 1 },
      { type: "chat.delta", message_id: "m", seq: 1, offset: 0, text: "naïve 🙂\n\nx" },
    ];
    const bytes = new TextEncoder().encode(
      `: hello\n\n${sent.map((event) => `id: 1\r\nevent: x\ndata: ${JSON.stringify(event)}\r\n\n`).join("")}data: {"cut`,
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 6 }), async (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        const body = new ReadableStream<Uint8Array>({
          start(controller) {
            for (let i = 1; i < at.length; i++) controller.enqueue(bytes.slice(at[i - 1], at[i]));
            controller.close();
          },
        });
        const got = [];
        for await (const event of events(body)) got.push(event);
        expect(got).toEqual(sent);
      }),
      { numRuns: 60 },
    );
  });
});
