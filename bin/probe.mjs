// Print, as one line of JSON, which adapter this machine opens: a child of prepare.mjs. With `system`, whether its own
// driver gives one: a child of core/platform/adapter_probe_node.ts. What drivers write to stderr ends here.
import { load } from "./load.mjs";

const { describe, openAdapter, systemAdapter } = await load("core/platform/adapter");
try {
  if (process.argv[2] === "system") console.log((await systemAdapter()) !== null);
  else {
    const { description } = await openAdapter();
    console.log(JSON.stringify({ ...description, line: describe(description) }));
  }
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
