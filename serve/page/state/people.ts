import { signal } from "@preact/signals";
import type { User } from "../../app/protocol.ts";
import { api } from "./api.ts";

/** Who uses the page; null: not known yet. */
export const user = signal<User | null>(null);

/** Removes what the service worker keeps of a person's conversations, and the notice board of it. */
export async function forgetCaches(): Promise<void> {
  await globalThis.caches?.delete("kiln-data");
  globalThis.indexedDB?.deleteDatabase("kiln-notices-kept");
}

export async function login(token: string): Promise<void> {
  await forgetCaches();
  user.value = await api<User>("POST", "/api/login", { token });
}

export async function logout(): Promise<void> {
  await api("POST", "/api/logout");
  await forgetCaches();
  location.reload();
}
