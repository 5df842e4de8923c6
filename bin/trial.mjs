// Print, as one line of JSON, how quickly a model decodes on the adapter of the environment. A child of serve/adapter_choice.ts.
import { load } from "./load.mjs";

const { timeDecoding } = await load("serve/adapter_trial");
try {
  console.log(JSON.stringify(await timeDecoding(process.argv[2], process.argv[3])));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
process.exit(0);
