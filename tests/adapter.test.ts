import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it, type TestContext, vi } from "vitest";
import { KilnError } from "../core/errors.ts";
import { describe as describeAdapter, openAdapter } from "../core/platform/adapter.ts";
import { cacheDir, readTar, systemManifests, unpackSwiftshader } from "../core/platform/adapter_node.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const linuxX64 = process.platform === "linux" && process.arch === "x64";

/** Each invocation adds its subgroup's sum of `lane + 1` (or its own) to one counter; returns the counter. */
async function sumOnDevice(adapter: GPUAdapter, invocations: number): Promise<number> {
  const subgroups = adapter.features.has("subgroups");
  const device = await adapter.requestDevice({ requiredFeatures: subgroups ? ["subgroups"] : [] });
  const code = `
    ${subgroups ? "enable subgroups;" : ""}
    @group(0) @binding(0) var<storage, read_write> total: atomic<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3u${subgroups ? ", @builtin(subgroup_invocation_id) lane: u32" : ""}) {
      ${
        subgroups
          ? "let sum = subgroupAdd(id.x + 1u); if (lane == 0u) { atomicAdd(&total, sum); }"
          : "atomicAdd(&total, id.x + 1u);"
      }
    }`;
  const layout = "auto";
  const module = device.createShaderModule({ code });
  const pipeline = await device.createComputePipelineAsync({ layout, compute: { module } });
  const total = device.createBuffer({
    size: 4,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  const readback = device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  device.queue.writeBuffer(total, 0, new Uint32Array([0]));
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: total } }],
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(invocations / 64);
  pass.end();
  encoder.copyBufferToBuffer(total, 0, readback, 0, 4);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(GPUMapMode.READ);
  const result = new Uint32Array(readback.getMappedRange())[0];
  device.destroy();
  return result;
}

/** Run a few lines of TypeScript in a process of its own, as a user's program would. */
function inNewProcess(code: string, env: Record<string, string | undefined>) {
  const program = `import { openAdapter, describe } from ${JSON.stringify(path.join(root, "core/platform/adapter.ts"))};\n${code}`;
  const done = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", program], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  return { status: done.status, stdout: done.stdout, stderr: done.stderr };
}

describe("opening an adapter", () => {
  afterEach(() => {
    vi.unstubAllEnvs();
  });

  it("runs a compute shader on the adapter of this machine", async () => {
    const { adapter, description } = await openAdapter();
    expect(await sumOnDevice(adapter, 256)).toBe((256 * 257) / 2);
    expect(description.f16).toBe(adapter.features.has("shader-f16"));
    expect(description.subgroupMaxSize > 0).toBe(adapter.features.has("subgroups"));
    expect(describeAdapter(description).split("\n")).toHaveLength(1);
    expect(describeAdapter(description)).toContain(description.software ? "software adapter" : "GPU: ");
  });

  it("gives a fresh adapter after one was used up", async () => {
    const first = await openAdapter();
    const second = await openAdapter();
    expect(second.gpu).toBe(first.gpu);
    expect(await sumOnDevice(first.adapter, 64)).toBe(2080);
    expect(await sumOnDevice(second.adapter, 64)).toBe(2080);
  });

  it("lists the Dawn switches in force, and says so when shaders are unchecked", async () => {
    const checked = (await openAdapter()).description;
    expect(checked.toggles).toContain("-lazy_clear_resource_on_first_use");
    expect(checked.toggles).not.toContain("+disable_robustness");
    const { adapter, description } = await openAdapter({
      disableRobustness: true,
      toggles: ["dump_shaders"],
    });
    expect(description.toggles).toEqual(expect.arrayContaining(["+disable_robustness", "+dump_shaders"]));
    expect(describeAdapter(description)).toContain("UNCHECKED");
    expect(adapter.features.size).toBeGreaterThan(0);
    vi.stubEnv("KILN_UNCHECKED", "1");
    expect((await openAdapter()).description.toggles).toContain("+disable_robustness");
  });

  it("names the remedy in one line when nothing is available", async () => {
    vi.stubEnv("KILN_ADAPTER", "none");
    const error = await openAdapter().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(KilnError);
    const { message, code } = error as KilnError;
    expect(code).toBe("no_adapter");
    expect(message.split("\n")).toHaveLength(1);
    expect(message).toContain(
      { linux: "npm run setup:gpu", darwin: "Metal" }[process.platform as string] ?? "driver",
    );
  });

  it("refuses a name that it does not know, and lists those it does", async () => {
    vi.stubEnv("KILN_ADAPTER", "lavapie");
    await expect(openAdapter()).rejects.toThrow(/lavapie is not known.*lavapipe.*swiftshader/);
  });

  it("tells a real driver's name from a software one", () => {
    const gpu = {
      vendor: "nvidia",
      architecture: "hopper",
      device: "",
      description: "",
      driver: "hardware" as const,
      software: false,
      subgroupMinSize: 32,
      subgroupMaxSize: 32,
      f16: true,
      toggles: [],
    };
    expect(describeAdapter(gpu)).toBe("GPU: nvidia hopper (f16, subgroups of 32), full speed.");
    expect(describeAdapter({ ...gpu, driver: "warp", software: true, f16: false })).toContain("no f16");
  });

  it.skipIf(!linuxX64 || systemManifests().length > 0)(
    "says nothing of an installed driver that Dawn refuses, and asks it once",
    () => {
      const folder = mkdtempSync(path.join(tmpdir(), "kiln-refused-"));
      const manifests = path.join(folder, "share/vulkan/icd.d");
      mkdirSync(manifests, { recursive: true });
      const ICD = { library_path: "/nowhere/libvulkan_refused.so", api_version: "1.1.0" };
      writeFileSync(
        path.join(manifests, "refused.json"),
        JSON.stringify({ file_format_version: "1.0.0", ICD }),
      );
      const cache = path.join(folder, "cache");
      // Not what an earlier test chose for this process.
      const own = { VK_DRIVER_FILES: undefined, VK_ICD_FILENAMES: undefined };
      const share = path.join(folder, "share");
      const env = { ...own, KILN_ADAPTER: "auto", KILN_CACHE: cache, XDG_DATA_HOME: share };
      const open = "console.log((await openAdapter()).description.driver);";
      // Asked without care, it is loud.
      const loud = `import { systemAdapter } from ${JSON.stringify(path.join(root, "core/platform/adapter.ts"))}; await systemAdapter();`;
      expect(inNewProcess(loud, env).stderr).toContain("Warning: ");
      for (const _ of [1, 2]) {
        expect(inNewProcess(open, env)).toEqual({ status: 0, stdout: "swiftshader\n", stderr: "" });
      }
      expect(readdirSync(path.join(cache, "system_driver"))).toHaveLength(1);
      rmSync(folder, { recursive: true });
    },
    60_000,
  );
});

describe.runIf(linuxX64)("SwiftShader from the npm package", () => {
  /** Hosts with a GPU may be brought here without it. */
  const installed = (() => {
    try {
      return Boolean(createRequire(import.meta.url).resolve("@sparticuz/chromium"));
    } catch {
      return false;
    }
  })();
  const needsPackage = (context: TestContext) => {
    if (!installed) context.skip("@sparticuz/chromium is not installed");
  };
  let cache: string;
  beforeEach(() => {
    cache = mkdtempSync(path.join(tmpdir(), "kiln-cache-"));
    vi.stubEnv("KILN_CACHE", cache);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(cache, { recursive: true, force: true });
  });

  it("unpacks once, whole, and leaves nothing beside it", (context) => {
    needsPackage(context);
    expect(cacheDir()).toBe(cache);
    const folder = unpackSwiftshader();
    expect(folder).toBe(path.join(cache, "swiftshader"));
    for (const file of ["libvulkan.so.1", "libvk_swiftshader.so", "vk_swiftshader_icd.json"]) {
      expect(statSync(path.join(folder!, file)).size).toBeGreaterThan(0);
    }
    const made = statSync(folder!).mtimeMs;
    expect(unpackSwiftshader()).toBe(folder);
    expect(statSync(folder!).mtimeMs).toBe(made);
    expect(readdirSync(cache)).toEqual(["swiftshader"]);
  });

  it("serves a machine that has nothing else, in a process of its own", (context) => {
    needsPackage(context);
    const code = `
      const { adapter, description } = await openAdapter();
      const device = await adapter.requestDevice();
      device.destroy();
      console.log(JSON.stringify({ driver: description.driver, software: description.software }));`;
    const { status, stdout } = inNewProcess(code, { KILN_ADAPTER: "swiftshader", KILN_CACHE: cache });
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({ driver: "swiftshader", software: true });
  });

  it("says which folder to change when the cache cannot be written", (context) => {
    needsPackage(context);
    const file = path.join(cache, "a-file");
    writeFileSync(file, "");
    vi.stubEnv("KILN_CACHE", path.join(file, "below"));
    expect(() => unpackSwiftshader()).toThrow(/KILN_CACHE/);
  });

  it("does not take an absent lavapipe for a driver", () => {
    const code = `await openAdapter().catch((error) => console.log(error.code + " " + error.message));`;
    const { stdout } = inNewProcess(code, { KILN_ADAPTER: "lavapipe", KILN_CACHE: cache });
    expect(stdout).toMatch(/^no_adapter .*asked for: lavapipe.*setup:gpu/);
    expect(existsSync(path.join(cache, "lavapipe"))).toBe(false);
  });
});

describe("reading a tar", () => {
  it("gives the plain files, padded or not, and stops at the end marker", () => {
    const header = (name: string, size: number, kind: string) => {
      const block = Buffer.alloc(512);
      block.write(name, 0);
      block.write(size.toString(8).padStart(11, "0"), 124);
      block.write(kind, 156);
      return block;
    };
    const padded = (text: string) => Buffer.concat([Buffer.from(text), Buffer.alloc(-text.length & 511)]);
    const exact = "x".repeat(512);
    const tar = Buffer.concat([
      header("folder/", 0, "5"),
      header("folder/a", 5, "0"),
      padded("hello"),
      header("b", 512, "0"),
      padded(exact),
      Buffer.alloc(1024),
      header("after the end", 0, "0"),
    ]);
    const files = readTar(tar).map(({ name, data }) => [name, Buffer.from(data).toString()]);
    expect(files).toEqual([
      ["folder/a", "hello"],
      ["b", exact],
    ]);
  });
});
