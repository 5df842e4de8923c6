import type { Plan, Snapshot } from "./run.ts";

/** The run that this browser keeps, in IndexedDB: a transaction is written whole or not at all. */

const table = "run";

function database(): Promise<IDBDatabase> {
  const opening = indexedDB.open("kiln-playground", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(table);
  return settled(opening);
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function transaction<T>(
  mode: IDBTransactionMode,
  work: (store: IDBObjectStore) => Promise<T> | T,
): Promise<T> {
  const db = await database();
  try {
    const opened = db.transaction(table, mode);
    const done = new Promise<void>((resolve, reject) => {
      opened.oncomplete = () => resolve();
      opened.onabort = () => reject(opened.error);
    });
    const result = await work(opened.objectStore(table));
    await done;
    return result;
  } finally {
    db.close();
  }
}

/** Keeps where a run is, and with `plan` what it is: a text is written once, not at every step. */
export function keep(snapshot: Snapshot, plan?: Plan): Promise<void> {
  return transaction("readwrite", (store) => {
    if (plan) store.put(plan, "plan");
    store.put(snapshot, "snapshot");
  });
}

export function kept(): Promise<{ plan: Plan; snapshot: Snapshot } | null> {
  return transaction("readonly", async (store) => {
    const [plan, snapshot] = await Promise.all([
      settled<Plan | undefined>(store.get("plan")),
      settled<Snapshot | undefined>(store.get("snapshot")),
    ]);
    return plan && snapshot ? { plan, snapshot } : null;
  });
}

export function forget(): Promise<void> {
  return transaction("readwrite", (store) => {
    store.clear();
  });
}
