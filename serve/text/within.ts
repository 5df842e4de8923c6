import { createContext, Script } from "node:vm";

const context = createContext({ work: () => {} });
const script = new Script("work()");

/**
 * The result of `work`, which holds up the whole process while it runs, unless that takes longer than `ms`.
 * @returns null when it was cut off
 */
export function within<T>(ms: number, work: () => T): { result: T } | null {
  let result: T;
  context.work = () => {
    result = work();
  };
  try {
    script.runInContext(context, { timeout: ms });
    return { result: result! };
  } catch (error) {
    if ((error as { code?: string }).code === "ERR_SCRIPT_EXECUTION_TIMEOUT") return null;
    throw error;
  } finally {
    context.work = null;
  }
}
