// The process of fake engines: a child of tests/engine_process.test.ts.
import { register } from "tsx/esm/api";

register();
await import("./fake_engine.ts");
