// The process in which `kiln serve` runs its engines: a child of serve/process/child.ts.
import { load } from "./load.mjs";

const { run } = await load("serve/process/main");
run();
