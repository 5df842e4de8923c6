import { uuid } from "../state/uuid.ts";
import { NoticeClient, NoticeError } from "./client.ts";
import { memoryShelf, type Shelf } from "./shelf.ts";

/** What a browser gives the board; `device.native.ts` is what a phone does. */

/** Names a notice wherever it is sent. */
export const newId: () => string = uuid;

/** The client of the server whose page this is. */
export const openClient = async (): Promise<NoticeClient> => new NoticeClient();

/** Logs in by a token. @throws NoticeError where it is not good. */
export async function signIn(token: string): Promise<void> {
  const response = await fetch("/api/login", {
    ...{ method: "POST", body: JSON.stringify({ token }) },
    headers: { "content-type": "application/json" },
  });
  if (!response.ok) throw new NoticeError(response.status, (await response.json()).error.message);
  // What the service worker of the chat keeps is somebody else's.
  await globalThis.caches?.delete("kiln-data");
}

/** What makes a text a link to an address; `path` is one of the server's, which opens here. */
export const linkTo = (url: string): object => ({
  href: url,
  ...(url.startsWith("/") ? {} : { hrefAttrs: { target: "_blank", rel: "noopener noreferrer" } }),
});

/** What was chosen on the chat page, above what the system has. */
export function chosenScheme(): "light" | "dark" | null {
  try {
    const chosen = JSON.parse(localStorage.getItem("kiln.theme") ?? "null");
    return chosen === "light" || chosen === "dark" ? chosen : null;
  } catch {
    return null;
  }
}

/** Makes the browser's own parts (scroll bars, the ground behind the page) as what was chosen; null: as the system has it. */
export function showScheme(scheme: "light" | "dark" | null): void {
  if (scheme !== null) document.documentElement.dataset.theme = scheme;
}

const wait = <T>(request: IDBRequest): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** A shelf in a database of the browser: `kept`, which goes with a session, or `outbox`. */
export function openShelf<T>(name: "kept" | "outbox"): Shelf<T> {
  const instead = memoryShelf<T>();
  const run = async <R>(work: (values: IDBObjectStore) => IDBRequest, otherwise: () => Promise<R>) => {
    let database: IDBDatabase;
    try {
      const opening = indexedDB.open(`kiln-notices-${name}`, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("values");
      database = await wait(opening);
    } catch {
      return otherwise();
    }
    // Closed each time, so that the chat page can delete it.
    try {
      return await wait<R>(work(database.transaction("values", "readwrite").objectStore("values")));
    } finally {
      database.close();
    }
  };
  return {
    all: () => run((values) => values.getAll(), instead.all),
    put: (key, value) =>
      run<void>(
        (values) => values.put(value, key),
        () => instead.put(key, value),
      ),
    remove: (key) =>
      run<void>(
        (values) => values.delete(key),
        () => instead.remove(key),
      ),
  };
}

/** Lets a person choose files. */
export function pickFiles(): Promise<{ name: string; content: Blob }[]> {
  const input = Object.assign(document.createElement("input"), { type: "file", multiple: true });
  return new Promise((resolve) => {
    input.onchange = () =>
      resolve([...(input.files ?? [])].map((file) => ({ name: file.name, content: file })));
    input.oncancel = () => resolve([]);
    input.click();
  });
}

/** Calls when the server may be there again, or what is shown may be old. @returns what ends it */
export function onReturn(call: () => void): () => void {
  const seen = () => document.visibilityState === "visible" && call();
  addEventListener("online", call);
  document.addEventListener("visibilitychange", seen);
  return () => {
    removeEventListener("online", call);
    document.removeEventListener("visibilitychange", seen);
  };
}
