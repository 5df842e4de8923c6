import { openOnce } from "../../kernels/index.ts";
import { loadInto } from "../../serve/loading.ts";
import { runHost } from "../../serve/process/host.ts";
import { openGpu } from "../../serve/process/main.ts";

runHost({
  load: loadInto,
  open: async (onLost) => {
    await openGpu(onLost);
    const { gpu } = await openOnce();
    process.on("SIGUSR2", () => gpu.destroy());
  },
});
