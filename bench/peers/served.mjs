// kiln itself as its server runs it: on the software adapter that `kiln serve` takes for the model, by the server's engine.
import { load } from "../../bin/load.mjs";

const { openDevice } = await load("kernels/index");
const { takeQuickest } = await load("serve/adapter_choice");
const { prepareStreams, streamsModel } = await load("bench/rows/streams");

export async function open() {
  const taken = await takeQuickest(await streamsModel(), "f32");
  await openDevice();
  return {
    version: taken ? `on ${taken.split(":")[0]}` : "",
    // Its own waits are as they are in the server.
    native: true,
    ops: { streams: async (...sizes) => (await prepareStreams(...sizes.slice(0, 3))).run },
  };
}
