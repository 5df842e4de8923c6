import { effect, signal } from "@preact/signals";
import type { Params } from "../../app/protocol.ts";

/** What this browser keeps: drafts and preferences, never messages. A browser that refuses storage works without. */
function read<T>(key: string, otherwise: T): T {
  try {
    return JSON.parse(localStorage.getItem(`kiln.${key}`) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(key: string, value: unknown): void {
  try {
    if (value === null || value === "") localStorage.removeItem(`kiln.${key}`);
    else localStorage.setItem(`kiln.${key}`, JSON.stringify(value));
  } catch {}
}

/** A signal whose value outlives the page. */
function kept<T>(key: string, otherwise: T) {
  const value = signal(read(key, otherwise));
  effect(() => write(key, value.value));
  return value;
}

export const theme = kept<"system" | "light" | "dark">("theme", "system");
effect(() => {
  if (theme.value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});

/** Of the next messages, in every conversation. */
export const params = kept<Params>("params", {});
/** Whether answers are made from the user's documents. */
export const retrieve = kept<"auto" | "on" | "off">("retrieve", "auto");
/** For conversations that do not exist yet. */
export const chosenModel = kept<string | null>("model", null);
export const newSystem = kept<string>("system", "");
export const newConsent = kept<boolean>("consent", false);

/** Whether something of these was chosen that the server does not know. */
export const unsent = kept<boolean>("unsent", false);

/** The text that waits in the composer of a conversation. */
export const draftOf = (conversation: string | null): string => read(`draft.${conversation ?? "new"}`, "");
export const keepDraft = (conversation: string | null, text: string): void =>
  write(`draft.${conversation ?? "new"}`, text);

/** Forgets all of it, and notices that were not posted yet, as after "delete my data". */
export function forget(): void {
  try {
    indexedDB.deleteDatabase("kiln-notices-outbox");
    for (const key of Object.keys(localStorage)) if (key.startsWith("kiln.")) localStorage.removeItem(key);
  } catch {}
}
