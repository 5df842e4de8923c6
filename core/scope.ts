import { Storage, scopes } from "./device.ts";
import { KilnError } from "./errors.ts";
import { nextNode, reachable, sever } from "./tape.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Runs `body` and frees every tensor made inside it, except those reachable from its result (tensors, and arrays,
 * maps or plain objects of them), which pass to the enclosing scope. What their derivatives need passes with them,
 * unless derivatives were taken inside: then their history ends here, and differentiating them again is an error.
 * `body` must be synchronous: an awaiting body would mix its tensors with another's.
 */
export function scope<T>(body: () => T): T {
  const own = new Set<Storage>();
  const since = nextNode();
  scopes.push(own);
  let result: T;
  try {
    result = body();
    if (result instanceof Promise)
      throw new KilnError("scope: the body must be synchronous, but it returned a promise");
  } catch (error) {
    scopes.pop();
    for (const storage of own) storage.free();
    throw error;
  }
  scopes.pop();
  const outer = scopes[scopes.length - 1] ?? null;
  const keep = (t: Tensor) => {
    if (t.storage.scope === own) t.storage.moveTo(outer);
  };
  const recorded: Tensor[] = [];
  forEachTensor(result, (t) => {
    if (t.node?.spent) sever(t, "they were taken in the scope that returned it; take all of them there");
    if (t.node) recorded.push(t);
    keep(t);
  });
  if (recorded.length > 0) for (const { saved } of reachable(recorded, since)) saved.forEach(keep);
  for (const storage of own) storage.free();
  return result;
}

/** Takes tensors out of every scope: parameters, optimizer state, caches. */
export function persist<T>(value: T): T {
  forEachTensor(value, (t) => t.storage.moveTo(null));
  return value;
}

/** Frees tensors now; they must not be used again. */
export function dispose(value: unknown): void {
  forEachTensor(value, (t) => t.storage.free());
}

/** Visits the tensors in a tensor, array, map or plain object, however nested. */
export function forEachTensor(value: unknown, visit: (t: Tensor) => void): void {
  if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return;
  if ("storage" in value && value.storage instanceof Storage) visit(value as Tensor);
  else if (Array.isArray(value) || value instanceof Map || value instanceof Set) {
    for (const item of value instanceof Map ? value.values() : value) forEachTensor(item, visit);
  } else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) forEachTensor(item, visit);
  }
}
