import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { KilnError } from "../core/errors.ts";
import { resolveModel } from "../models/hub/resolve.ts";
import { addModel } from "../models/registry/describe.ts";
import { diffVersions } from "../models/registry/diff.ts";
import { parseReference, versionOfPath } from "../models/registry/names.ts";
import { Registry } from "../models/registry/registry.ts";
import { facts } from "./support/registry_facts.ts";
import { wordPieces } from "./support/word_pieces.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-registry-"));
afterAll(() => rmSync(root, { recursive: true }));

let registry: Registry;
let count = 0;
beforeEach(() => {
  registry = new Registry(join(root, `registry-${count++}`));
  vi.stubEnv("KILN_REGISTRY", registry.folder);
  vi.stubEnv("HF_HUB_CACHE", join(root, "hub"));
});

/** A folder that stands for a model: the registry itself does not read what it holds. */
function source(content: string): string {
  const folder = join(root, `source-${count++}`);
  mkdirSync(join(folder, "part"), { recursive: true });
  writeFileSync(join(folder, "config.json"), content);
  writeFileSync(join(folder, "part", "weights"), content.repeat(1000));
  writeFileSync(join(folder, ".hidden"), "");
  return folder;
}
const add = (content: string, more = {}, name = "m") =>
  registry.add(name, source(content), { ...facts, ...more });
const failure = async (work: Promise<unknown>): Promise<KilnError> =>
  work.then(
    () => expect.unreachable("nothing was thrown"),
    (error) => error,
  );

describe("versions", () => {
  it("are whole copies under numbers that never come twice", async () => {
    const [one, two] = await Promise.all([add("one"), add("two")]);
    expect([one.version, two.version].sort()).toEqual([1, 2]);
    expect(one.files.map(({ path, bytes }) => [path, bytes])).toEqual([
      ["config.json", 3],
      ["part/weights", 3000],
    ]);
    expect(readFileSync(join(two.path, "part", "weights"), "utf8")).toBe("two".repeat(1000));
    await registry.remove("m", 2);
    await registry.remove("m", 1);
    expect(await registry.list()).toEqual([]);
    expect((await add("three")).version).toBe(3);
    const { message, code } = await failure(registry.find("m@2"));
    expect([code, message]).toEqual([
      "version_missing",
      "m@2 does not exist any more: it was deleted; m has 3",
    ]);
    expect(readdirSync(join(registry.folder, "m")).sort()).toEqual(["3", "deleted"]);
  });

  it("of the same content have the same content hash, and another one else", async () => {
    const [a, b, c] = [await add("same"), await add("same"), await add("other")];
    expect(a.content_sha256).toBe(b.content_sha256);
    expect(a.content_sha256).not.toBe(c.content_sha256);
  });

  it("are found by number, alias, and name alone: its prod, else the newest", async () => {
    for (const content of ["one", "two", "three"]) await add(content);
    const found = async (reference: string) => (await registry.find(reference)).version;
    expect(await found("m")).toBe(3);
    expect(await registry.alias("m", "prod", 1)).toBeNull();
    expect(await registry.alias("m", "canary", 2)).toBeNull();
    expect(await registry.alias("m", "prod", 2)).toBe(1);
    expect(await Promise.all(["m", "m@prod", "m@canary", "m@3"].map(found))).toEqual([2, 2, 2, 3]);
    expect((await registry.model("m")).aliases).toEqual({ canary: 2, prod: 2 });
    expect(await registry.alias("m", "prod", null)).toBe(2);
    expect(await found("m")).toBe(3);
    for (const [reference, message] of [
      ["m@prod", "m@prod does not exist; m has 1, 2, 3, canary (2)"],
      ["m@4", "m@4 does not exist; m has 1, 2, 3, canary (2)"],
      [
        "other",
        `the registry in ${registry.folder} has no model other; add one with kiln model add other FOLDER`,
      ],
      ["mm", `the registry in ${registry.folder} has no model mm; did you mean m?`],
    ])
      expect((await failure(registry.find(reference))).message).toBe(message);
    expect((await failure(registry.alias("m", "prod", 9))).code).toBe("version_missing");
  });

  it("have names that are safe in a path", async () => {
    for (const name of ["", ".", "..", "../m", "a/b", "a@1", "-a", "a b", "a\0", "x".repeat(97)])
      expect((await failure(registry.add(name, source("x"), facts))).code, name).toBe("name_invalid");
    await add("x");
    for (const alias of ["", "3", "../x", "a/b", "a@b"])
      expect((await failure(registry.alias("m", alias, 1))).code, alias).toBe("name_invalid");
    expect(parseReference("m@0")).toBeNull();
    expect(parseReference("a@b@c")).toBeNull();
  });

  it("that something refers to are not deleted", async () => {
    await add("base", {}, "base");
    await add("base 2", {}, "base");
    await add("adapter", { kind: "adapter", base: "base@1" }, "adapter");
    const refusal = async (version: number) => (await failure(registry.remove("base", version))).message;
    expect(await refusal(1)).toBe("base@1 is referred to by its adapter adapter@1: end that first");
    await registry.alias("base", "prod", 2);
    const end = await registry.use("base@prod", "kiln serve");
    await registry.use("base@prod", "the experiment e", true);
    expect(await refusal(2)).toMatch(/^base@2 is referred to by the alias prod, .*the experiment e/);
    expect((await registry.referrers("base", 2)).sort()).toEqual([
      "kiln serve",
      "the alias prod",
      "the experiment e",
    ]);
    await end();
    await registry.release("base@2", "the experiment e");
    await registry.alias("base", "prod", null);
    await registry.remove("base", 2);
    await registry.remove("adapter", 1);
    await registry.remove("base", 1);
  });

  it("are no longer in use by a process that is gone", async () => {
    await add("x");
    const uses = join(registry.folder, "m", "uses");
    mkdirSync(uses, { recursive: true });
    const gone = { by: "gone", pid: 2 ** 22 + 1, host: hostname(), started: "then" };
    writeFileSync(join(uses, "1-x.json"), JSON.stringify(gone));
    writeFileSync(join(uses, "1-y.json"), JSON.stringify({ ...gone, by: "elsewhere", host: "other" }));
    expect(await registry.referrers("m", 1)).toEqual(["elsewhere"]);
    expect(readdirSync(uses)).toEqual(["1-y.json"]);
  });

  it("are compared by file, setting, metric and signature", async () => {
    const a = await add("a", { metrics: { loss: 2, same: 1 }, config: { train: { rate: 0.1 } } });
    const signature = { ...facts.signature, max_model_len: 16 };
    const b = await add("b", {
      metrics: { loss: 1.5, same: 1 },
      config: { train: { rate: 0.2, steps: 3 } },
      signature,
    });
    const hashes = [a, b].map(({ files }) => files.map(({ sha256 }) => sha256));
    expect(diffVersions(a, b)).toEqual([
      { name: "config.train.rate", a: 0.1, b: 0.2 },
      { name: "config.train.steps", b: 3 },
      { name: "files.config.json", a: hashes[0][0], b: hashes[1][0] },
      { name: "files.part/weights", a: hashes[0][1], b: hashes[1][1] },
      { name: "metrics.loss", a: 2, b: 1.5 },
      { name: "signature.max_model_len", a: 8, b: 16 },
    ]);
    expect(diffVersions(a, a)).toEqual([]);
  });

  it("are verified file by file", async () => {
    const { path } = await add("whole");
    expect(await registry.verify("m")).toEqual([]);
    truncateSync(join(path, "part", "weights"), 4999);
    writeFileSync(join(path, "config.json"), "whule");
    expect(await registry.verify("m")).toEqual([
      "config.json is not what was saved: its SHA-256 differs",
      "part/weights has 4999 bytes instead of 5000",
    ]);
    rmSync(join(path, "config.json"));
    expect((await registry.verify("m"))[0]).toMatch("config.json does not exist");
  });
});

it("any order of operations gives what a map would", async () => {
  const number = fc.integer({ min: 1, max: 6 });
  const operation = fc.oneof(
    fc.record({ what: fc.constant("add" as const), number }),
    fc.record({ what: fc.constantFrom("remove" as const, "alias" as const, "unalias" as const), number }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 12 }), async (operations) => {
      registry = new Registry(join(root, `registry-${count++}`));
      const model = new Map<number, string>();
      let [highest, prod]: [number, number | null] = [0, null];
      for (const [i, { what, number }] of operations.entries()) {
        const exists = model.has(number);
        if (what === "add") {
          expect((await add(`content ${i}`)).version).toBe(++highest);
          model.set(highest, `content ${i}`);
        } else if (highest === 0) continue;
        else if (what === "unalias") {
          expect(await registry.alias("m", "prod", null)).toBe(prod);
          prod = null;
        } else if (what === "alias" && exists) {
          expect(await registry.alias("m", "prod", number)).toBe(prod);
          prod = number;
        } else if (what === "remove" && exists && prod !== number) {
          await registry.remove("m", number);
          model.delete(number);
        } else {
          const code = exists ? "version_in_use" : "version_missing";
          const work = what === "remove" ? registry.remove("m", number) : registry.alias("m", "prod", number);
          expect((await failure(work)).code).toBe(code);
        }
      }
      const { versions, aliases } = await registry.model("m");
      expect([versions, aliases.prod ?? null]).toEqual([[...model.keys()], prod]);
      for (const [version, content] of model)
        expect(readFileSync(join((await registry.find(`m@${version}`)).path, "config.json"), "utf8")).toBe(
          content,
        );
    }),
    { numRuns: 15 },
  );
});

describe("after a process was killed", () => {
  it("gc frees what it left, and what another is doing stays", async () => {
    await add("x");
    await add("y");
    const place = join(registry.folder, "m");
    const work = (name: string, owner: object | null) => {
      mkdirSync(join(place, name, "version"), { recursive: true });
      writeFileSync(join(place, name, "version", "weights"), "x".repeat(5000));
      if (owner) writeFileSync(join(place, name, "owner.json"), JSON.stringify(owner));
    };
    work(".tmp-1-dead", { pid: 2 ** 22 + 1, host: hostname(), started: "then" });
    work(".tmp-2-live", { pid: process.pid, host: hostname(), started: null });
    work(`.tmp-${process.pid}-begun`, null);
    work(`.tmp-${2 ** 22 + 1}-begun`, null);
    writeFileSync(join(place, `.lock.${2 ** 22 + 1}.x`), "");
    writeFileSync(join(place, `.lock.${process.pid}.x`), "");
    // Killed between the tombstone and the removal.
    mkdirSync(join(place, "deleted"), { recursive: true });
    writeFileSync(join(place, "deleted", "2.json"), "{}");
    writeFileSync(join(place, "deleted", `.1.json.tmp-${process.pid}-x`), "{");
    writeFileSync(
      join(place, ".lock"),
      JSON.stringify({ pid: 2 ** 22 + 1, host: hostname(), started: "then" }),
    );
    expect((await registry.model("m")).versions).toEqual([1]);
    expect(await registry.collect()).toBeGreaterThan(6000);
    const left = readdirSync(place).filter((name) => !["uses", "aliases"].includes(name));
    expect(left.sort()).toEqual(
      [`.lock.${process.pid}.x`, ".tmp-2-live", `.tmp-${process.pid}-begun`, "1", "deleted"].sort(),
    );
    expect(readdirSync(join(place, "deleted"))).toEqual(["2.json"]);
    expect((await add("z")).version).toBe(3);
  });

  it("a copy that fails leaves nothing", async () => {
    const { message } = await failure(registry.add("m", join(root, "nowhere"), facts));
    expect(message).toMatch("nowhere does not exist");
    expect(readdirSync(join(registry.folder, "m"))).toEqual([]);
    expect(await registry.has("m")).toBe(false);
  });
});

describe("a model that is added", () => {
  const sizes = {
    vocab_size: wordPieces().vocabSize,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 1,
  };
  const config = { model_type: "llama", ...sizes, num_attention_heads: 2, max_position_embeddings: 128 };
  const hash = "ab".repeat(32);

  /** The folder of a run that has finished; its weights are never read here. */
  function finishedRun(initFrom?: string): string {
    const folder = join(root, `run-${count++}`);
    mkdirSync(join(folder, "model"), { recursive: true });
    mkdirSync(join(folder, "checkpoints", "step-000020"), { recursive: true });
    writeFileSync(
      join(folder, "config.json"),
      JSON.stringify({ out_dir: folder, model: { init_from: initFrom }, train: { seed: 1 } }),
    );
    writeFileSync(
      join(folder, "log.jsonl"),
      '{"step":19,"loss":3}\n{"step":20,"loss":2.5}\n{"step":20,"validation_loss":2.25}\n{"step":2',
    );
    const state = { settings: { "data.content": hash } };
    writeFileSync(join(folder, "checkpoints", "step-000020", "trainer_state.json"), JSON.stringify(state));
    writeFileSync(join(folder, "model", "config.json"), JSON.stringify(config));
    wordPieces().save(join(folder, "model"));
    return folder;
  }

  it("brings what its run knows, its signature and where it comes from", async () => {
    const first = await addModel("chat", await resolveModel(finishedRun()));
    expect(first).toMatchObject({
      ...{ kind: "base", data_sha256: hash, parents: [], config: { train: { seed: 1 } } },
      metrics: { step: 20, loss: 2.5, validation_loss: 2.25 },
      signature: {
        ...{ task: "text-generation", input: "text", output: "text", max_model_len: 128 },
        ...{ tokenizer_sha256: wordPieces().hash(), chat_template_sha256: null },
      },
    });
    await registry.alias("chat", "prod", 1);
    // A run that began from a version has its folder in its settings.
    const second = await addModel("chat", await resolveModel(finishedRun(await resolveModel("chat"))));
    expect(second.parents).toEqual(["chat@1"]);
    expect(versionOfPath(second.path)).toBe("chat@2");
  });

  it("is found by name wherever a model is, and a folder of that name comes first", async () => {
    const { path } = await addModel("chat", join(finishedRun(), "model"));
    for (const name of ["chat", "chat@1"]) expect(await resolveModel(name)).toBe(path);
    await registry.alias("chat", "canary", 1);
    expect(await resolveModel("chat@canary")).toBe(path);
    expect((await failure(resolveModel("chat@2"))).message).toBe(
      "chat@2 does not exist; chat has 1, canary (1)",
    );
    expect((await failure(resolveModel("other"))).message).toMatch(/no model of that name in the registry/);
    await registry.add("tests", path, facts);
    expect(await resolveModel("tests")).toBe("tests");
  });

  it("may be an adapter, which names a version of its base", async () => {
    await addModel("chat", join(finishedRun(), "model"));
    const folder = join(root, `adapter-${count++}`);
    mkdirSync(folder);
    writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ r: 2 }));
    expect((await failure(addModel("poems", folder))).message).toMatch("give --base MODEL");
    const poems = await addModel("poems", folder, { base: "chat", note: "iambic" });
    expect(poems).toMatchObject({ kind: "adapter", base: "chat@1", parents: ["chat@1"], note: "iambic" });
    expect(await registry.referrers("chat", 1)).toEqual(["its adapter poems@1"]);
    const elsewhere = await addModel("poems", folder, { base: "org/other" });
    expect(elsewhere).toMatchObject({ base: "org/other", parents: [] });
  });

  it("is refused where kiln could not load it", async () => {
    expect((await failure(addModel("m", source("{}")))).message).toMatch("config.json");
    expect(existsSync(join(registry.folder, "m"))).toBe(false);
  });
});
