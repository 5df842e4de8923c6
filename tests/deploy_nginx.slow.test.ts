import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { askServer, type Target } from "../bench/serve/client.ts";
import { realClock } from "../bench/serve/load.ts";
import { withDevice } from "../core/device.ts";
import { ReferenceDevice } from "../core/reference_device.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import { tinyllmConfig } from "../models/llama_config.ts";
import { fakeTokenizer } from "./serve_fake.ts";

/** Processes of `kiln serve` behind Debian's nginx, with docs/deploy/nginx.conf. */
const nginx = spawnSync("nginx", ["-v"]).status === 0;
const folder = mkdtempSync(join(tmpdir(), "kiln-nginx-"));
const children: ChildProcess[] = [];
afterAll(async () => {
  // nginx ends its workers only if it is asked.
  for (const child of children) child.kill(child.spawnfile === "nginx" ? "SIGTERM" : "SIGKILL");
  await pause(500);
  rmSync(folder, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  const socket = createSocket();
  await new Promise<void>((resolve) => socket.listen(0, "127.0.0.1", resolve));
  const { port } = socket.address() as AddressInfo;
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function answers(url: string): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const status = await fetch(url).then(
      (response) => response.status,
      () => 0,
    );
    if (status === 200) return;
    await pause(100);
  }
  throw new Error(`${url} never answered`);
}

async function replica(): Promise<{ port: number; child: ChildProcess }> {
  const port = await freePort();
  const child = spawn(
    process.execPath,
    ["bin/kiln.mjs", "serve", join(folder, "model"), "--port", String(port), "--allowed-host", "*"],
    { stdio: "ignore" },
  );
  children.push(child);
  await answers(`http://127.0.0.1:${port}/ready`);
  return { port, child };
}

/** The documented configuration with these servers, so that nginx can run as anybody. */
function configure(listen: number, ports: readonly number[]): string {
  const path = join(folder, "nginx.conf");
  const servers = ports.map((port) => `server 127.0.0.1:${port} max_fails=1 fail_timeout=5s;`).join("\n");
  const text = readFileSync("docs/deploy/nginx.conf", "utf8")
    .replace(/server kiln-0[^;]*;\s*server kiln-1[^;]*;/, servers)
    .replace("listen 8080", `listen 127.0.0.1:${listen}`)
    .replace("http {", "http {\naccess_log off;\nadd_header x-served-by $upstream_addr;");
  writeFileSync(path, `pid ${folder}/nginx.pid;\nerror_log ${folder}/error.log;\ndaemon off;\n${text}`);
  return path;
}

describe.skipIf(!nginx)("two servers behind nginx (apt-get install nginx)", () => {
  it("equal keys stay together; a server killed and one added under load cost only what was in flight", async () => {
    const tokenizer = fakeTokenizer();
    await withDevice(new ReferenceDevice(), () => {
      const sizes = { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 };
      return new LlamaForCausalLM(tinyllmConfig({ vocab_size: tokenizer.vocabSize, ...sizes })).init(1);
    }).savePretrained(join(folder, "model"), tokenizer);
    const [first, second] = [await replica(), await replica()];
    const listen = await freePort();
    mkdirSync(join(folder, "logs"), { recursive: true });
    const config = configure(listen, [first.port, second.port]);
    const proxy = spawn("nginx", ["-p", folder, "-c", config], { stdio: "inherit" });
    children.push(proxy);
    const url = `http://127.0.0.1:${listen}`;
    await answers(`${url}/ready`);

    const servedBy = async (key: string) => {
      const headers = { "x-kiln-prefix-key": key };
      const response = await fetch(`${url}/v1/models`, { headers });
      await response.text();
      return response.headers.get("x-served-by")!;
    };
    const places = new Map<string, string>();
    for (let i = 0; i < 24; i++) places.set(`key-${i}`, await servedBy(`key-${i}`));
    expect(new Set(places.values()).size).toBe(2);
    for (const [key, place] of places) expect(await servedBy(key)).toBe(place);

    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
    const target: Target = {
      ...{ url, model: data[0]!.id, chat: false, apiKey: undefined, timeoutMs: 60_000 },
      fields: { temperature: 0, ignore_eos: true },
    };
    let stop = false;
    const samples: { from: number; to: number; error: string | null }[] = [];
    const worker = async () => {
      while (!stop) {
        const from = performance.now();
        const ask = () => askServer(target, { prompt: "once upon a time", maxTokens: 24 }, realClock);
        let { error } = await ask();
        // At a reload nginx closes idle connections, on which this may have been sent: like OpenAI's client, send it again.
        if (error?.startsWith("fetch failed")) ({ error } = await ask());
        samples.push({ from, to: performance.now(), error });
      }
    };
    const workers = Array.from({ length: 6 }, worker);
    await pause(2000);
    const killed = performance.now();
    first.child.kill("SIGKILL");
    await pause(2000);
    const third = await replica();
    configure(listen, [second.port, third.port]);
    expect(spawnSync("nginx", ["-p", folder, "-c", config, "-s", "reload"]).status).toBe(0);
    await pause(3000);
    stop = true;
    await Promise.all(workers);
    const failed = samples.filter(({ error }) => error !== null);
    for (const { from, to, error } of failed)
      expect([error, from < killed && killed <= to]).toEqual([error, true]);
    expect(failed.length).toBeLessThanOrEqual(6);
    expect(samples.filter(({ from, error }) => from > killed && error === null).length).toBeGreaterThan(20);

    // Only the keys of the one that went have moved.
    const now = new Map<string, string>();
    for (const key of places.keys()) now.set(key, await servedBy(key));
    expect(new Set(now.values())).toEqual(new Set([`127.0.0.1:${second.port}`, `127.0.0.1:${third.port}`]));
    const stayed = [...places].filter(([, place]) => place === `127.0.0.1:${second.port}`);
    const moved = stayed.filter(([key, place]) => now.get(key) !== place);
    expect(moved.length).toBeLessThan(stayed.length);
  }, 180_000);
});
