// One peer in a process of its own: node child.mjs PEER. Prints {version} when it is open, or {error}; then each line
// {op, sizes, ms} on its standard input is answered by {ms, cpu_ms, samples, first_ms} or {error}, until the input ends.
import { createInterface } from "node:readline";
import { load } from "../../bin/load.mjs";

const { openAdapter } = await load("core/platform/adapter");
const { measure } = await load("bench/measure");
const { values } = await load("bench/data");
const { awaitIdle } = await load("core/webgpu/waiting");

/** The device that the peer opens, to wait for and to hear errors from. */
const opened = { device: null, error: null };

/** Libraries ask `navigator.gpu`: they get the adapter, and the Dawn switches, that kiln runs on. */
async function offerNavigator() {
  const { gpu } = await openAdapter();
  const requestAdapter = async () => {
    const { adapter } = await openAdapter();
    const requestDevice = adapter.requestDevice.bind(adapter);
    adapter.requestDevice = async (descriptor) => {
      opened.device = await requestDevice(descriptor);
      opened.device.onuncapturederror = ({ error }) => {
        opened.error ??= error.message;
      };
      copySharedViews(opened.device.queue);
      return opened.device;
    };
    return adapter;
  };
  const offered = {
    requestAdapter,
    getPreferredCanvasFormat: () => "bgra8unorm",
    wgslLanguageFeatures: gpu.wgslLanguageFeatures,
  };
  const { platform } = process;
  const value = { gpu: offered, userAgent: "node", platform, language: "en", hardwareConcurrency: 1 };
  Object.defineProperty(globalThis, "navigator", { value, configurable: true, writable: true });
}

/** Dawn's Node binding does not accept views of shared memory, in which onnxruntime-web keeps its data. */
function copySharedViews(queue) {
  const write = queue.writeBuffer.bind(queue);
  queue.writeBuffer = (buffer, offset, data, ...range) => {
    const shared = (data.buffer ?? data) instanceof SharedArrayBuffer;
    write(buffer, offset, shared ? data.slice() : data, ...range);
  };
}

const wait = () => opened.device?.queue.onSubmittedWorkDone();
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const firstLine = (error) => String(error?.message ?? error).split("\n")[0];

async function time({ ops, cpuMs }, restful, { op, sizes, file, ms }) {
  try {
    opened.error = null;
    const run = await ops[op](...sizes, file);
    // Peers wait for a software adapter as kiln does, so that rows compare what runs there; a native one has none to wait
    // for. One that trains answers with its loss.
    const timing = await measure(
      async (times) => {
        const answer = run(times);
        if (Number.isNaN(await (restful ? awaitIdle(answer) : answer))) throw new Error("it computes NaN");
      },
      ms,
      cpuMs,
    );
    if (opened.error) throw new Error(opened.error);
    return timing;
  } catch (error) {
    return { error: firstLine(error) };
  }
}

try {
  const [, , module] = process.argv;
  // kiln's own server chooses its adapter before any is opened.
  if (module !== "served") await offerNavigator();
  const { open } = await import(`./${module}.mjs`);
  const peer = await open({ values, wait });
  const restful = !peer.native && (await openAdapter()).description.software;
  say({ version: peer.version });
  for await (const line of createInterface({ input: process.stdin }))
    say(await time(peer, restful, JSON.parse(line)));
} catch (error) {
  say({ error: firstLine(error) });
}
process.exit(0);
