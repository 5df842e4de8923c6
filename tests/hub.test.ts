import { execFile, spawn } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { KilnError } from "../core/errors.ts";
import { ProgressLine } from "../core/platform/progress_line.ts";
import { parseModelName } from "../models/hub/names.ts";
import { type PullOptions, pullModel } from "../models/hub/pull.ts";
import { resolveModel } from "../models/hub/resolve.ts";
import { selectPaths } from "../models/hub/select.ts";
import { recipe as mlm } from "../train/recipes/mlm.ts";
import { loadSettings, parseOverrides } from "../train/settings/load.ts";
import { FakeHub, type Fault, gitHash, sha256 } from "./support/fake_hub.ts";

const root = mkdtempSync(join(tmpdir(), "kiln-hub-"));
afterAll(() => rmSync(root, { recursive: true }));

let hub: FakeHub;
beforeAll(async () => {
  hub = await FakeHub.start();
});
afterAll(() => hub.close());

/** The weights are stored elsewhere, the rest at the hub itself. */
const weights = Buffer.from(Uint8Array.from({ length: 5000 }, (_, i) => (i * i) % 251));
const files = {
  "config.json": '{"model_type": "llama"}',
  "tokenizer.json": "{}",
  "model.safetensors": weights,
  "pytorch_model.bin": "pickle",
  "onnx/model.onnx": "x",
};

let waits: number[] = [];
/** Nobody waits; what would have been waited is kept. */
const clock = { sleep: async (ms: number) => void waits.push(ms), random: () => 0 };
const pull = (name: string, options: PullOptions = {}) => pullModel(name, { clock, ...options });

let cache = "";
let count = 0;
beforeEach(() => {
  cache = join(root, `cache-${count++}`);
  waits = [];
  hub.requests.length = 0;
  hub.listFaults.length = 0;
  hub.faults.clear();
  vi.stubEnv("HF_ENDPOINT", hub.endpoint);
  vi.stubEnv("HF_HUB_CACHE", cache);
  vi.stubEnv("HF_TOKEN", "");
  vi.stubEnv("HF_HUB_OFFLINE", "");
});
afterEach(() => vi.unstubAllEnvs());

async function failure(work: Promise<unknown>): Promise<KilnError> {
  const error = await work.then(
    () => null,
    (thrown) => thrown,
  );
  expect(error).toBeInstanceOf(KilnError);
  expect(error.message).not.toContain("\n");
  return error;
}

const blobs = (repository: string) =>
  readdirSync(join(cache, `models--${repository.replace("/", "--")}`, "blobs")).sort();

describe("pulling a model", () => {
  it("fetches what kiln needs of it into the layout of huggingface_hub", async () => {
    const commit = hub.add("org/a", { ...files, "1_Pooling/config.json": "{}" });
    const done = await pull("org/a");
    const folder = join(cache, "models--org--a", "snapshots", commit);
    const names = ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"];
    expect(done).toMatchObject({ repository: "org/a", revision: "main", commit, folder });
    expect(done.files.map(({ path }) => path).sort()).toEqual([...names].sort());
    expect(done.fetched).toBe(done.bytes);
    for (const name of names) {
      const content = Buffer.from({ ...files, "1_Pooling/config.json": "{}" }[name]!);
      expect(readFileSync(join(folder, name)).equals(content)).toBe(true);
    }
    expect(blobs("org/a")).toEqual(
      [sha256(weights), gitHash(Buffer.from("{}")), gitHash(Buffer.from(files["config.json"]))].sort(),
    );
    expect(lstatSync(join(folder, "1_Pooling/config.json")).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(cache, "models--org--a", "refs", "main"), "utf8")).toBe(commit);
  });

  it("makes one request for a branch that is here, none for a commit or offline", async () => {
    const commit = hub.add("org/a", files);
    await pull("org/a");
    hub.requests.length = 0;
    expect((await pull("org/a")).fetched).toBe(0);
    expect(hub.requests).toHaveLength(1);
    expect((await pull(`org/a@${commit}`)).commit).toBe(commit);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect((await pull("org/a")).commit).toBe(commit);
    expect(hub.requests).toHaveLength(1);
  });

  it("fetches of a new commit only the bytes that changed, and keeps the old one", async () => {
    const old = hub.add("org/a", files);
    await pull("org/a@v1");
    const commit = hub.add("org/a", { ...files, "config.json": "{}" });
    hub.requests.length = 0;
    expect((await pull("org/a")).fetched).toBe(0); // the new config has the bytes of tokenizer.json
    expect(hub.requests).toHaveLength(1);
    expect(await resolveModel("org/a")).toMatch(commit);
    expect(await resolveModel("org/a@v1")).toMatch(old);
    expect(readFileSync(join(await resolveModel("org/a@v1"), "config.json"), "utf8")).toBe(
      files["config.json"],
    );
  });

  it("finds what huggingface_hub fetched", async () => {
    const commit = hub.add("org/a", files);
    const place = join(cache, "models--org--a");
    for (const folder of ["blobs", "refs", `snapshots/${commit}`])
      mkdirSync(join(place, folder), { recursive: true });
    writeFileSync(join(place, "refs/main"), commit);
    writeFileSync(join(place, "snapshots", commit, "config.json"), "{}");
    writeFileSync(join(place, "blobs", sha256(weights)), weights);
    const snapshot = join(place, "snapshots", commit);
    expect(await resolveModel("org/a")).toBe(snapshot);
    // Training starts from it by its name too, whoever gives that.
    const settings = join(root, "from.yaml");
    writeFileSync(settings, "model: { init_from: org/a }");
    const train = { "data.path": "x", "model.init_from": "org/a" };
    const overrides = parseOverrides(Object.entries(train).map(([key, value]) => `${key}=${value}`));
    expect((await loadSettings(mlm, null, overrides)).model.init_from).toBe(snapshot);
    expect((await loadSettings(mlm, settings)).model.init_from).toBe(snapshot);
    const none = loadSettings(mlm, null, parseOverrides(["model.init_from=org/none"]));
    expect((await failure(none)).message).toMatch(/org\/none does not exist.* run kiln pull org\/none/);
    await pull("org/a");
    expect(hub.requests.some(({ url }) => url.includes("safetensors"))).toBe(false);
  });

  it("asks for sizes and checksums of a server whose list has none", async () => {
    hub.add("org/a", files, { tellsBlobs: false });
    const done = await pull("org/a");
    expect(done.files.find(({ path }) => path === "model.safetensors")).toEqual({
      path: "model.safetensors",
      size: 5000,
      hash: sha256(weights),
    });
    expect(readFileSync(join(done.folder, "model.safetensors")).equals(weights)).toBe(true);
  });

  it("shows how far it is", async () => {
    hub.add("org/a", files);
    const shown: string[] = [];
    const stream = { write: (text: string) => shown.push(text) };
    await pull("org/a", { progress: new ProgressLine({ stream }) });
    expect(shown.join()).toMatch(/ MiB of \d+ MiB {2}\d+ MiB\/s {2}ETA .*config\.json/);
  });
});

describe("a bad connection", () => {
  it("any sequence of drops ends in the right bytes, over one process or several", async () => {
    const size = 2000;
    const fault: fc.Arbitrary<Fault> = fc.oneof(
      fc.record({ kind: fc.constantFrom("drop" as const, "truncate" as const), after: fc.nat(size) }),
      fc.record({
        kind: fc.constant("status" as const),
        status: fc.constantFrom(408, 429, 500, 502, 503, 504),
      }),
      fc.record({ kind: fc.constantFrom("ignoreRange" as const, "wrongRange" as const) }),
    );
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fault, { maxLength: 12 }), fc.boolean(), async (faults, isLarge) => {
        const content = Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + run) % 256));
        const name = `org/drops${run++}`;
        hub.add(
          name,
          { "config.json": "{}", "model.safetensors": content },
          { largeFrom: isLarge ? 1000 : 1e9 },
        );
        hub.faults.set("model.safetensors", [...faults]);
        // Each try of the person ends after some failures of the hub in a row at the latest.
        for (let tries = 0; ; tries++) {
          const done = await pull(name).catch((error: KilnError) => {
            expect(error.code).toBe("hub_unreachable");
            expect(tries).toBeLessThan(faults.length);
            return null;
          });
          if (!done) continue;
          expect(readFileSync(join(done.folder, "model.safetensors")).equals(content)).toBe(true);
          break;
        }
      }),
      { numRuns: 60 },
    );
  });

  it("is taken up where it ended, by Range", async () => {
    hub.add("org/a", files);
    hub.faults.set("model.safetensors", [
      { kind: "drop", after: 1200 },
      { kind: "truncate", after: 800 },
    ]);
    await pull("org/a");
    const ranges = hub.requests.filter(({ server }) => server === "storage").map(({ range }) => range);
    expect(ranges[0]).toBe(undefined);
    expect(ranges).toHaveLength(3);
    expect(Number(ranges[2]!.match(/\d+/)![0])).toBe(Number(ranges[1]!.match(/\d+/)![0]) + 800);
    expect(waits).toEqual([1000, 1000]);
  });

  it("waits 1, 2, 4, … seconds, or what the server asks for", async () => {
    hub.add("org/a", files);
    const status = (code: number, retryAfter?: string): Fault => ({
      kind: "status",
      status: code,
      ...(retryAfter && { retryAfter }),
    });
    const date = new Date(Date.now() + 60_000).toUTCString();
    hub.faults.set("model.safetensors", [status(503), status(429, "7"), status(500), status(503, date)]);
    await pull("org/a");
    expect(waits.slice(0, 3)).toEqual([1000, 7000, 4000]);
    expect(waits[3]).toBeGreaterThan(55_000);
    const half = { sleep: clock.sleep, random: () => 1 };
    hub.faults.set("tokenizer.json", [status(500)]);
    hub.add("org/b", files);
    await pull("org/b", { clock: half });
    expect(waits[4]).toBe(500);
    hub.faults.set("tokenizer.json", [status(429, "9999")]);
    hub.add("org/c", files);
    expect((await failure(pull("org/c"))).message).toMatch(/asks to wait 167 minutes/);
  });

  it("a connection over which nothing comes any more counts as dropped", async () => {
    hub.add("org/a", files);
    hub.faults.set("model.safetensors", [{ kind: "stall" }]);
    const done = await pull("org/a", { stall: 200 });
    expect(readFileSync(join(done.folder, "model.safetensors")).equals(weights)).toBe(true);
    expect(hub.requests.at(-1)!.range).toBe("bytes=10-");
  });

  it("that stays bad ends with what is kept; the next pull goes on there, in another process too", async () => {
    hub.add("org/a", files);
    const down: Fault[] = Array.from({ length: 6 }, () => ({ kind: "status", status: 503 }));
    hub.faults.set("model.safetensors", [{ kind: "truncate", after: 3000 }, ...down]);
    const error = await failure(pull("org/a"));
    expect(error.message).toMatch(
      /the hub answered 503.*of model.safetensors are kept.*run the same command again/,
    );
    expect((await failure(resolveModel("org/a"))).message).toMatch("kiln pull org/a");
    await pull("org/a");
    expect(hub.requests.at(-1)!.range).toBe("bytes=3000-");
  });
});

describe("wrong bytes", () => {
  it("are fetched once more, then refused; nothing of them is kept", async () => {
    hub.add("org/a", files);
    hub.faults.set("model.safetensors", [{ kind: "corrupt" }]);
    const done = await pull("org/a");
    expect(readFileSync(join(done.folder, "model.safetensors")).equals(weights)).toBe(true);
    hub.add("org/b", files);
    hub.faults.set("config.json", [{ kind: "corrupt" }, { kind: "corrupt" }]);
    const error = await failure(pull("org/b"));
    expect(error.message).toMatch(/config.json came with another checksum than the hub tells, twice/);
    expect(error.code).toBe("hub_damaged");
    const part = join(
      cache,
      "models--org--b",
      "blobs",
      `${gitHash(Buffer.from(files["config.json"]))}.kiln-part`,
    );
    expect(readFileSync(part)).toHaveLength(0);
  });

  it("more than the list tells are refused", async () => {
    hub.add("org/a", files);
    hub.faults.set("model.safetensors", [{ kind: "tooLong" }]);
    expect((await failure(pull("org/a"))).message).toMatch(/sends more than the 5000 bytes/);
  });

  it("of an earlier attempt do no harm", async () => {
    hub.add("org/a", files);
    mkdirSync(join(cache, "models--org--a", "blobs"), { recursive: true });
    const part = join(cache, "models--org--a", "blobs", `${sha256(weights)}.kiln-part`);
    writeFileSync(part, "not what it should be");
    const done = await pull("org/a");
    expect(readFileSync(join(done.folder, "model.safetensors")).equals(weights)).toBe(true);
    expect(existsSync(part)).toBe(false);
  });
});

describe("what is refused", () => {
  it.each(["../evil", "/etc/passwd", "a/../../b", "a\\..\\b", "C:evil", "a//b", "a\0b", "a\nb", "", "con. "])(
    "a file called %j",
    async (path) => {
      hub.add("org/a", files, { listed: [path] });
      const error = await failure(pull("org/a", { include: ["*"] }));
      expect(error.message).toMatch(/which is no path inside a model's folder/);
      expect(existsSync(join(cache, "models--org--a", "blobs"))).toBe(false);
    },
  );

  it.each(["", "a/b/c", "../a", "org/..", "-a/b", "org/a@", "org/a@../x", "org/a@x/../y", "o--x/a", "a b"])(
    "a model called %j",
    async (name) => {
      expect(parseModelName(name)).toBe(null);
      expect((await failure(pull(name))).message).toMatch(/is no model's name/);
      expect(hub.requests).toHaveLength(0);
    },
  );

  it("models and revisions that are not there, in words", async () => {
    hub.add("org/a", files);
    expect((await failure(pull("org/none"))).message).toMatch(/has no model org\/none, or it is private/);
    expect((await failure(pull("org/a@v9"))).message).toMatch(/org\/a has no revision v9/);
    expect(waits).toEqual([]);
  });

  it("an answer that is none", async () => {
    hub.add("org/a", files, { commit: "../../x" });
    expect((await failure(pull("org/a"))).message).toMatch(/names no commit/);
  });

  it("more than the limit, and more than the disk has", async () => {
    hub.add("org/a", files);
    expect((await failure(pull("org/a", { maxBytes: 4000 }))).message).toMatch(
      /more than the limit.*--include/,
    );
    hub.add("org/b", files, { claims: { "model.safetensors": 2 ** 52 } });
    const error = await failure(pull("org/b", { maxBytes: 2 ** 53 }));
    expect(error.code).toBe("disk_full");
    expect(error.message).toMatch(/has .* GiB left: free some, or set HF_HUB_CACHE/);
    expect(hub.requests).toHaveLength(2);
  });

  it("an endpoint that is none, and a token in the clear", async () => {
    vi.stubEnv("HF_ENDPOINT", "hub.example");
    expect((await failure(pull("org/a"))).message).toMatch(/HF_ENDPOINT=hub.example is no web address/);
    vi.stubEnv("HF_ENDPOINT", "http://hub.example");
    vi.stubEnv("HF_TOKEN", "hf_secret");
    const { message } = await failure(pull("org/a"));
    expect(message).toMatch(/unencrypted/);
    expect(message).not.toContain("hf_secret");
  });
});

it("the token goes to the hub, never to another host", async () => {
  hub.add("org/a", files, { needsToken: "hf_secret" });
  expect((await failure(pull("org/a"))).message).toMatch(/for a private one set HF_TOKEN/);
  vi.stubEnv("HF_TOKEN", "hf_secret\n");
  hub.requests.length = 0;
  await pull("org/a");
  const tokens = (server: string) => [
    ...new Set(hub.requests.filter((r) => r.server === server).map((r) => r.authorization)),
  ];
  expect(tokens("hub")).toEqual(["Bearer hf_secret"]);
  expect(tokens("storage")).toEqual([undefined]);
});

describe("without the hub", () => {
  it("says what to do, after two more tries", async () => {
    hub.listFaults.push(...Array.from({ length: 3 }, (): Fault => ({ kind: "drop", after: 0 })));
    hub.add("org/a", files);
    const { message } = await failure(pull("org/a"));
    expect(message).toMatch(
      /cannot pull org\/a: .*cannot be reached.*put its config.json.*into a folder by hand/,
    );
    expect(waits).toEqual([1000, 2000]);
    vi.stubEnv("HF_HUB_OFFLINE", "true");
    hub.requests.length = 0;
    expect((await failure(pull("org/a"))).message).toMatch(/HF_HUB_OFFLINE is set.*into a folder by hand/);
    expect(hub.requests).toHaveLength(0);
  });

  it("takes what was pulled last, and says so", async () => {
    hub.add("org/a", files);
    const { commit } = await pull("org/a");
    const gone = await FakeHub.start();
    vi.stubEnv("HF_ENDPOINT", gone.endpoint);
    await gone.close();
    const said: string[] = [];
    expect((await pull("org/a", { say: (line) => said.push(line) })).commit).toBe(commit);
    expect(said.join()).toMatch(/cannot be reached \(ECONNREFUSED\): org\/a as it was pulled last/);
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const { message } = await failure(pull("org/a", { include: ["onnx/*"] }));
    expect(message).toMatch(/onnx\/model.onnx was not pulled before/);
  });
});

describe("the files of a model", () => {
  const select = (...paths: string[]) => selectPaths(paths, "org/a");
  it("are its shards, one file before shards, or its only GGUF", () => {
    const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    const index = "model.safetensors.index.json";
    expect(select("config.json", ...shards, index, "consolidated.safetensors")).toEqual([
      "config.json",
      ...shards,
      index,
    ]);
    expect(select("model.safetensors", ...shards, index)).toEqual(["model.safetensors"]);
    expect(select("README.md", "a.Q8_0.gguf")).toEqual(["README.md", "a.Q8_0.gguf"]);
    expect(select("adapter_config.json", "adapter_model.safetensors")).toHaveLength(2);
  });

  it("are chosen by patterns, or the error says from what", () => {
    const refusal = (paths: string[], include?: string[]) => {
      try {
        return selectPaths(paths, "org/a", include).join();
      } catch (error) {
        return (error as KilnError).message;
      }
    };
    const ggufs = ["a.Q4_0.gguf", "a.Q8_0.gguf", "b/c.gguf"];
    expect(refusal(ggufs)).toBe(
      "org/a has several GGUF files: choose one with --include; there is a.Q4_0.gguf, a.Q8_0.gguf, b/c.gguf",
    );
    expect(refusal(ggufs, ["*Q8_?.gguf"])).toBe("a.Q8_0.gguf");
    expect(refusal(ggufs, ["*.gguf"])).toBe(ggufs.join());
    expect(refusal(ggufs, ["*.ggu"])).toMatch("no file that matches --include *.ggu");
    expect(refusal(["pytorch_model.bin"])).toMatch(/pickles only/);
    expect(refusal(["README.md"])).toMatch(/no weights that kiln reads/);
  });
});

describe("the name of a pulled model", () => {
  it("stands for its folder or GGUF file; a path wins; the error names both", async () => {
    hub.add("org/gguf", { "README.md": "x", "a.gguf": "GGUF" });
    const { folder } = await pull("org/gguf");
    expect(await resolveModel("org/gguf")).toBe(join(folder, "a.gguf"));
    expect(await resolveModel("core/platform")).toBe("core/platform");
    expect(await resolveModel("/nowhere")).toBe("/nowhere");
    const { message } = await failure(resolveModel("org/none"));
    expect(message).toContain(process.cwd());
    expect(message).toContain(cache);
    expect(message).toContain("kiln pull org/none");
  });
});

/** Runs the command in a process of its own. */
function kiln(args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, ["bin/kiln.mjs", ...args], (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

describe("kiln pull", () => {
  it("prints the folder, or JSON", async () => {
    const commit = hub.add("org/a", files);
    const first = await kiln(["pull", "org/a"]);
    expect(first.stdout).toBe(`${join(cache, "models--org--a", "snapshots", commit)}\n`);
    const json = JSON.parse((await kiln(["pull", "org/a", "--json", "--include", "*.json"])).stdout);
    expect(json).toMatchObject({ repository: "org/a", commit, fetched: 0 });
    expect(json.files).toHaveLength(2);
    vi.stubEnv("KILN_ADAPTER", "none");
    expect((await kiln(["serve", "org/a", "--port", "0"])).stderr).toMatch(/snapshots.*config.json/);
  });

  it("two processes at once fetch each file once", async () => {
    hub.add("org/a", files);
    const done = await Promise.all([kiln(["pull", "org/a"]), kiln(["pull", "org/a"])]);
    expect(done.map(({ code }) => code)).toEqual([0, 0]);
    expect(done[0].stdout).toBe(done[1].stdout);
    expect(hub.requests.filter(({ server }) => server === "storage")).toHaveLength(1);
  });

  it("Ctrl-C keeps what has come", async () => {
    hub.add("org/a", files);
    hub.faults.set("model.safetensors", [{ kind: "stall" }]);
    const child = spawn(process.execPath, ["bin/kiln.mjs", "pull", "org/a"]);
    let said = "";
    child.stderr.on("data", (text) => {
      said += text;
    });
    await vi.waitFor(
      () => expect(hub.requests.some(({ server }) => server === "storage")).toBe(true),
      10_000,
    );
    const part = join(cache, "models--org--a", "blobs", `${sha256(weights)}.kiln-part`);
    await vi.waitFor(() => expect(readFileSync(part)).toHaveLength(10), 10_000);
    child.kill("SIGINT");
    expect(await new Promise((resolve) => child.once("close", resolve))).toBe(130);
    expect(said).toMatch(/kiln: stopped; what has come is kept/);
    await pull("org/a");
    expect(hub.requests.at(-1)!.range).toBe("bytes=10-");
  });
});
