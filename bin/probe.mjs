// Print, as one line of JSON, which adapter this machine opens. A child of prepare.mjs.
import { register } from "tsx/esm/api";

register();
const { describe, openAdapter } = await import("../core/adapter.ts");
try {
  const { description } = await openAdapter();
  console.log(JSON.stringify({ ...description, line: describe(description) }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
