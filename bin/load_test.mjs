// `npm run load`: a load on a server, and what it answered by then. `npm run load -- URL` measures one that runs,
// `npm run load -- MODEL` one that it starts for that; without either the demo's model is served. Further arguments go to
// `kiln bench serve`.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { kiln, prepare, root, runNode, stop } from "./prepare.mjs";

prepare({ announce: false, dev: false });
const args = process.argv.slice(2);
const given = args[0]?.startsWith("-") === false ? args.shift() : path.join(root, "runs/demo/model");
if (!args.some((flag) => /^--(rate|concurrency)\b/.test(flag))) args.push("--concurrency", "1,8,32");
if (/^https?:/.test(given)) process.exitCode = await runNode(kiln, ["bench", "serve", given, ...args]);
else await measureOwn();

async function measureOwn() {
  if (!existsSync(given) && given.startsWith(root))
    stop(`there is no ${given}: run npm start, or name a model or the address of a server`);
  const command = [kiln, "serve", given, "--port", "0"];
  const server = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const url = await new Promise((resolve) => {
    for (const stream of [server.stdout, server.stderr])
      stream.on("data", (data) => {
        said += data;
        const found = /^Serving .* at (http:\S+)$/m.exec(said);
        if (found) resolve(found[1]);
      });
    server.once("close", (code) => stop(said.trim() || `the server ended with ${code}`));
  });
  process.exitCode = await runNode(kiln, ["bench", "serve", url, ...args]);
  server.removeAllListeners("close");
  const closed = new Promise((resolve) => server.once("close", resolve));
  server.kill("SIGTERM");
  await closed;
}
