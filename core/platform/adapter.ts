import { KilnError, usageError } from "../errors.ts";
import type { Driver } from "./adapter_node.ts";

/** Which driver runs the shaders. Browsers do not name hardware drivers: all of them are `browser`. */
export type DriverKind = "hardware" | "lavapipe" | "swiftshader" | "warp" | "browser";

/** Which adapter runs, in plain data: safe to print, to store beside a benchmark and to send as JSON. */
export interface AdapterDescription {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  driver: DriverKind;
  /** True where the shaders run on the processor: right results, no speed. */
  software: boolean;
  /** Lanes that run in lockstep; both are 0 where the adapter has no subgroups. */
  subgroupMinSize: number;
  subgroupMaxSize: number;
  /** True where shaders may use 16-bit floats. */
  f16: boolean;
  /** Dawn switches in force, as `+name` (enabled) or `-name` (disabled); empty in a browser. */
  toggles: string[];
}

export interface AdapterOptions {
  /** Ask for a software adapter even where a GPU is present. */
  software?: boolean;
  /** Further Dawn toggles to enable. */
  toggles?: string[];
  /** Drop bounds checks from shaders. Only for measurements that say so: a wrong index then reads stray memory. */
  disableRobustness?: boolean;
}

export interface OpenedAdapter {
  gpu: GPU;
  adapter: GPUAdapter;
  description: AdapterDescription;
}

/** The drivers that `KILN_ADAPTER` may name; `none` opens nothing, to see what a machine without any would say. */
export const adapterChoices = [
  "auto",
  "hardware",
  "software",
  "lavapipe",
  "swiftshader",
  "warp",
  "none",
] as const;
export type AdapterChoice = (typeof adapterChoices)[number];

const baseToggles = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia", "use_vulkan_memory_model"];
const offToggles = ["timestamp_quantization", "lazy_clear_resource_on_first_use"];

/** Dawn crashes the process when the object that `create()` returned is collected: every one is kept here. */
const pinKey = Symbol.for("kiln.gpu");
function pinned(): Map<string, GPU> {
  const holder = globalThis as { [pinKey]?: Map<string, GPU> };
  holder[pinKey] ??= new Map();
  return holder[pinKey];
}

/**
 * Open a WebGPU adapter: the machine's own driver first, else the best software driver there is (WARP on Windows;
 * on Linux lavapipe from the cache, then SwiftShader from the npm package, unpacked on first use).
 *
 * `KILN_ADAPTER` overrides the choice (see `adapterChoices`), `KILN_UNCHECKED=1` is `disableRobustness`, and `KILN_CACHE`
 * moves the driver cache. A used adapter is consumed by `requestDevice`: call again for another. Call from the main
 * thread; in a Node worker the environment does not reach the Vulkan loader.
 *
 * With `lazy_clear_resource_on_first_use` off, new buffers hold whatever was there before.
 *
 * @throws KilnError `no_adapter` with the remedy for this platform when nothing answers.
 */
export async function openAdapter(options: AdapterOptions = {}): Promise<OpenedAdapter> {
  if (typeof process === "undefined" || !process.versions?.node) return openInBrowser();
  const choice = chooseAdapter(options);
  const toggles = dawnToggles(options);
  const native = await import("./adapter_node.ts");
  for (const driver of driverOrder(choice)) {
    if (!native.prepareDriver(driver) || (driver === "system" && !(await systemDriverAnswers()))) continue;
    const { gpu, adapter } = await request(native.createGpu, driver, toggles);
    if (!adapter) continue;
    const description = describeAdapter(adapter, toggles.names);
    const unwanted =
      choice === "hardware" ? description.software : choice === "software" && !description.software;
    if (unwanted) continue;
    return { gpu, adapter, description };
  }
  throw noAdapter(choice, native.cacheDir());
}

/** Whether the machine's own driver offers a GPU; opens no device. Node only. */
export async function findsHardware(): Promise<boolean> {
  const { prepareDriver } = await import("./adapter_node.ts");
  if (!prepareDriver("system") || !(await systemDriverAnswers())) return false;
  const adapter = await systemAdapter();
  return adapter !== null && !describeAdapter(adapter, []).software;
}

async function systemDriverAnswers(): Promise<boolean> {
  const native = await import("./adapter_probe_node.ts");
  return native.systemDriverAnswers();
}

/** The adapter that Dawn finds with the installed driver, or null. Dawn may write about it to stderr. Node only. */
export async function systemAdapter(): Promise<GPUAdapter | null> {
  const { prepareDriver, createGpu } = await import("./adapter_node.ts");
  if (!prepareDriver("system")) return null;
  return (await request(createGpu, "system", dawnToggles({}))).adapter;
}

async function openInBrowser(): Promise<OpenedAdapter> {
  const gpu = typeof navigator === "undefined" ? undefined : navigator.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!gpu || !adapter) {
    throw new KilnError(
      "This browser offers no WebGPU adapter: use a current Chrome, Edge, Safari or Firefox with hardware acceleration on, and open the page over https or from localhost.",
      { code: "no_adapter" },
    );
  }
  const description = describeAdapter(adapter, []);
  if (!description.software) description.driver = "browser";
  return { gpu, adapter, description };
}

function chooseAdapter(options: AdapterOptions): AdapterChoice {
  const asked = process.env.KILN_ADAPTER || "auto";
  const known = adapterChoices.find((choice) => choice === asked);
  if (!known) {
    throw usageError(
      `KILN_ADAPTER=${asked} is not known: use one of ${adapterChoices.join(", ")}.`,
      "bad_adapter_choice",
    );
  }
  if (options.software && (known === "auto" || known === "hardware")) return "software";
  return known;
}

interface Toggles {
  flags: string[];
  names: string[];
}

function dawnToggles(options: AdapterOptions): Toggles {
  const enabled = [...baseToggles, ...(options.toggles ?? [])];
  if (options.disableRobustness || process.env.KILN_UNCHECKED === "1") enabled.push("disable_robustness");
  return {
    flags: [`enable-dawn-features=${enabled.join(",")}`, `disable-dawn-features=${offToggles.join(",")}`],
    names: [...enabled.map((name) => `+${name}`), ...offToggles.map((name) => `-${name}`)],
  };
}

/** Which drivers to try, in order. The system's own comes last for `software`: it counts only when it is a software one. */
function driverOrder(choice: AdapterChoice): Driver[] {
  const software: Driver[] = process.platform === "win32" ? ["warp"] : ["lavapipe", "swiftshader"];
  if (choice === "none") return [];
  if (choice === "hardware") return ["system"];
  if (choice === "software") return [...software, "system"];
  if (choice === "auto") return ["system", ...software];
  return [choice];
}

async function request(
  createGpu: (flags: string[]) => Promise<GPU>,
  driver: Driver,
  toggles: Toggles,
): Promise<{ gpu: GPU; adapter: GPUAdapter | null }> {
  const flags = driver === "warp" ? [...toggles.flags, "adapter=Microsoft"] : toggles.flags;
  // A GPU object that found nothing keeps finding nothing, so the driver is part of its name.
  const key = [driver, ...flags].join(" ");
  const gpu = pinned().get(key) ?? (await createGpu(flags));
  pinned().set(key, gpu);
  return { gpu, adapter: await gpu.requestAdapter({ powerPreference: "high-performance" }) };
}

function describeAdapter(adapter: GPUAdapter, toggles: string[]): AdapterDescription {
  const { vendor, architecture, device, description, subgroupMinSize, subgroupMaxSize } = adapter.info;
  const driver = driverKind(`${vendor} ${architecture} ${device} ${description}`.toLowerCase());
  const subgroups = adapter.features.has("subgroups");
  return {
    vendor,
    architecture,
    device,
    description,
    driver,
    software: driver !== "hardware",
    subgroupMinSize: subgroups ? (subgroupMinSize ?? 0) : 0,
    subgroupMaxSize: subgroups ? (subgroupMaxSize ?? 0) : 0,
    f16: adapter.features.has("shader-f16"),
    toggles,
  };
}

function driverKind(text: string): DriverKind {
  if (text.includes("swiftshader")) return "swiftshader";
  if (text.includes("llvmpipe")) return "lavapipe";
  if (text.includes("basic render")) return "warp";
  return "hardware";
}

/** One line for people: which adapter runs, and what to expect of it. */
export function describe(d: AdapterDescription): string {
  const name =
    d.description || [d.vendor, d.architecture, d.device].filter(Boolean).join(" ") || "unnamed GPU";
  const unchecked = d.toggles.includes("+disable_robustness") ? ", UNCHECKED shaders" : "";
  const traits = `${d.f16 ? "f16" : "no f16"}, ${subgroupText(d)}${unchecked}`;
  if (!d.software) return `GPU: ${name} (${traits}), full speed.`;
  return `GPU: none used; software adapter ${d.driver}, ${name} (${traits}): right results at processor speed, meant for tests and first steps.`;
}

function subgroupText(d: AdapterDescription): string {
  if (d.subgroupMaxSize === 0) return "no subgroups";
  const { subgroupMinSize: min, subgroupMaxSize: max } = d;
  return min === max ? `subgroups of ${max}` : `subgroups of ${min} to ${max}`;
}

function noAdapter(choice: AdapterChoice, cache: string): KilnError {
  const remedy = {
    darwin: "macOS has Metal built in: use macOS 13 or newer, outside a virtual machine without GPU access",
    win32:
      "install the GPU maker's driver, or the Windows optional feature Graphics Tools for the software adapter",
    linux: `run \`npm run setup:gpu\` (fetches a software driver into ${cache}, no root), or install the GPU maker's Vulkan driver, or a recent mesa-vulkan-drivers package`,
  }[process.platform as string];
  const asked = choice === "auto" ? "" : ` (asked for: ${choice})`;
  return new KilnError(
    `No WebGPU adapter was found${asked}: ${remedy ?? "install a Vulkan driver for this platform"}.`,
    { code: "no_adapter" },
  );
}
