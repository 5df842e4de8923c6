// The process of real engines that loses its device on SIGUSR2: a child of tests/engine_process.slow.test.ts.
import { register } from "tsx/esm/api";

register();
await import("./lost_engine.ts");
