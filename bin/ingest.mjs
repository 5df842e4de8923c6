// The process in which one uploaded file is read: a child of serve/app/ingest/contained_read.ts.
import { load } from "./load.mjs";

const { run } = await load("serve/app/ingest/child");
await run();
