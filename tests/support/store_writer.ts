import { indexMessages, newId, openStore } from "../../serve/store/index.ts";
import { addMessage } from "./store_rows.ts";

// A process that writes messages to a store, each with its search words in one transaction, and prints a line for each that the
// store has said to keep. Arguments: address, user, conversation, name, how many.
const [address, user, conversation, name, count] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
];
try {
  const store = await openStore(address);
  process.stdout.write("open\n");
  for (let i = 0; i < Number(count); i++) {
    const content = `${name} wrote ${name}x${i}`;
    const id = newId();
    const begin = performance.now();
    await store.transaction(async (tx) => {
      await addMessage(tx, user, conversation, content, { id });
      await indexMessages(tx, [{ id, user_id: user, content }]);
    });
    process.stdout.write(`${id} ${(performance.now() - begin).toFixed(3)}\n`);
  }
  await store.close();
} catch (error) {
  process.stdout.write(`error ${(error as Error).message}\n`);
  process.exitCode = 1;
}
