import { setFlagsFromString } from "node:v8";
import { createContext, runInContext, runInNewContext } from "node:vm";

/** Runs V8's collector at once, also in the middle of a turn of the event loop. */
export function nodeCollector(): () => void {
  let gc: (() => void) | null = null;
  let turn: object;
  return () => {
    if (!gc) {
      setFlagsFromString("--expose-gc");
      gc = runInNewContext("gc") as () => void;
      turn = createContext({}, { microtaskMode: "afterEvaluate" });
    }
    // The target of a new WeakRef stays alive until a queue of microtasks has run: here one that holds nothing else.
    runInContext("Promise.resolve().then(() => {})", turn);
    gc();
  };
}
