// One of the processes that write to a store at the same time: `node writer.mjs ADDRESS CONVERSATION COUNT`.
import { load } from "../../bin/load.mjs";

const [address, conversation, count] = process.argv.slice(2);
const { write } = await load("bench/apps/writers");
await write(address, conversation, Number(count));
