// `npm start`: the demo, from a fresh clone. Arguments go on to it: `npm start -- --smoke`.
import { compile } from "./load.mjs";
import { kiln, prepare, runNode } from "./prepare.mjs";

prepare({ announce: false, dev: false });
compile();
process.exitCode = await runNode(kiln, ["demo", ...process.argv.slice(2)]);
