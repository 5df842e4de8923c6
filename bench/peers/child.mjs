// Times one peer in a process of its own: node child.mjs PEER MILLISECONDS '[{"name","op","sizes"}]'.
// Prints a line of JSON for each row: {name, ms, samples} or {name, error}; rows that the peer lacks are left out.
import { register } from "tsx/esm/api";

register();
const { openAdapter } = await import("../../core/adapter.ts");
const { measure } = await import("../measure.ts");
const { values } = await import("../data.ts");

const [peer, ms, rows] = process.argv.slice(2);

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
      return opened.device;
    };
    return adapter;
  };
  const offered = {
    requestAdapter,
    getPreferredCanvasFormat: () => "bgra8unorm",
    wgslLanguageFeatures: gpu.wgslLanguageFeatures,
  };
  const value = { gpu: offered, userAgent: "node", platform: process.platform, language: "en" };
  Object.defineProperty(globalThis, "navigator", { value, configurable: true, writable: true });
}

const wait = () => opened.device?.queue.onSubmittedWorkDone();

await offerNavigator();
const { open } = await import(`./${peer}.mjs`);
const { ops, version } = await open({ values, wait });
console.log(JSON.stringify({ version }));
for (const { name, op, sizes } of JSON.parse(rows)) {
  if (!ops[op]) continue;
  try {
    const run = await ops[op](...sizes);
    const timing = await measure(run, Number(ms));
    if (opened.error) throw new Error(opened.error);
    console.log(JSON.stringify({ name, ...timing }));
  } catch (error) {
    console.log(JSON.stringify({ name, error: String(error.message ?? error).split("\n")[0] }));
  }
}
process.exit(0);
