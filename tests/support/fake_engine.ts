import { KilnError } from "../../core/errors.ts";
import { type HostOptions, runHost } from "../../serve/process/host.ts";
import { AGAIN, PATHS, trickRunner } from "./fake_engine_model.ts";
import { fakeTokenizer } from "./fake_tokenizer.ts";

let lose: (error: Error) => void;
const forever = new Promise<never>(() => {});
const die = () => process.kill(process.pid, "SIGKILL");

const runner = trickRunner({
  die,
  hang: () => forever,
  block: () => {
    for (;;);
  },
  lose: () => {
    lose(new KilnError("the GPU device was lost: on request", { code: "device_lost" }));
    return forever;
  },
});

const load: HostOptions["load"] = async (pool, { name, aliases, path }) => {
  if (path === PATHS.dies || (path === PATHS.diesAgain && process.env[AGAIN])) die();
  if (path === PATHS.refused) throw new KilnError("there is no such model", { code: "model_not_found" });
  return pool.addText({ name, aliases, runner, tokenizer: fakeTokenizer() });
};

const open = async (onLost: typeof lose) => {
  lose = onLost;
};

runHost({ load, open });
