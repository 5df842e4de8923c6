import { computed, signal } from "@preact/signals";
import type { Conversation, ConversationList, ConversationPatch } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { ApiError, api } from "./api.ts";
import { go, place } from "./route.ts";

/** The conversations of the sidebar, newest first; null: not there yet. */
export const conversations = signal<readonly Conversation[] | null>(null);
/** Where the next page of them begins. */
export const older = signal<string | null>(null);
/** Why they could not be loaded. */
export const historyError = signal<string | null>(null);

export const current = computed(() => conversations.value?.find(({ id }) => id === place.value.id) ?? null);

/** A line at the foot of the page that goes by itself. */
export const toast = signal<{ text: string; action?: { name: string; run: () => void } } | null>(null);
let toastTimer: ReturnType<typeof setTimeout> | undefined;

export function say(text: string, action?: { name: string; run: () => void }): void {
  clearTimeout(toastTimer);
  toast.value = { text, ...(action && { action }) };
  toastTimer = setTimeout(() => {
    toast.value = null;
  }, 10_000);
}

/** Runs something that a person asked for; a failure becomes a line that they see. */
export async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    say(error instanceof ApiError ? error.message : String(error));
    return undefined;
  }
}

let first: () => void;
/** The newest loading of the list; before the first one, that. */
let loading = new Promise<void>((resolve) => {
  first = resolve;
});
export const historyLoaded = (): Promise<void> => loading;

export function loadHistory(more = false): Promise<void> {
  loading = load(more).then(first);
  return loading;
}

async function load(more: boolean): Promise<void> {
  const cursor = more && older.value ? `&before=${encodeURIComponent(older.value)}` : "";
  try {
    const list = await api<ConversationList>("GET", `/api/conversations?limit=50${cursor}`);
    const known = more ? (conversations.value ?? []) : [];
    conversations.value = [...known, ...list.conversations];
    older.value = list.next;
    historyError.value = null;
  } catch (error) {
    historyError.value = (error as Error).message;
  }
}

/** Puts a conversation into the list where it belongs by its time. */
export function putConversation(conversation: Conversation): void {
  const others = (conversations.value ?? []).filter(({ id }) => id !== conversation.id);
  conversations.value = [conversation, ...others].sort((a, b) => b.updated_at - a.updated_at);
}

export function markRunning(id: string, running: boolean): void {
  const found = conversations.value?.find((conversation) => conversation.id === id);
  if (found && found.running !== running)
    conversations.value = conversations.value!.map((one) => (one === found ? { ...one, running } : one));
}

/** An answer of a conversation begins. One that is not in the list is new, and comes by itself, or old. */
export function begun(id: string, model: string): void {
  const found = conversations.value?.find((conversation) => conversation.id === id);
  if (found) putConversation({ ...found, model, running: true, updated_at: Date.now() });
}

export async function change(id: string, patch: ConversationPatch): Promise<boolean> {
  const changed = await attempt(() => api<Conversation>("PATCH", `/api/conversations/${id}`, patch));
  if (changed) putConversation(changed);
  return changed !== undefined;
}

/** Takes a conversation out of the list, and from the screen. */
export function dropConversation(id: string): void {
  conversations.value = (conversations.value ?? []).filter((one) => one.id !== id);
  if (place.value.id === id) go("chat");
}

/** Deletes, and offers to undo it. */
export async function remove(conversation: Conversation): Promise<void> {
  const gone = await attempt(async () => {
    await api("DELETE", `/api/conversations/${conversation.id}`);
    return true;
  });
  if (!gone) return;
  dropConversation(conversation.id);
  say(t.history.deleted, {
    name: t.history.undo,
    run: () => {
      toast.value = null;
      void change(conversation.id, { deleted: false });
    },
  });
}
