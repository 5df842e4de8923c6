import { useEffect } from "preact/hooks";
import { regenerate, stop, streaming, thread } from "../state/chat.ts";
import { dialog, panelOpen, sidebarOpen } from "./shell.ts";
import { newChat } from "./sidebar.tsx";
import { copyText } from "./text.tsx";

/** The keys that work everywhere on the page, and those of the list of messages when it has the focus. */
export function Keyboard() {
  useEffect(() => {
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return null;
}

function onKey(event: KeyboardEvent): void {
  const modified = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const act = modified ? withModifier(key, event.shiftKey) : event.altKey ? null : alone(event, key);
  if (!act) return;
  event.preventDefault();
  act();
}

function withModifier(key: string, shift: boolean): (() => void) | null {
  if (key === "k") return () => (dialog.value = dialog.value === "search" ? null : "search");
  if (key === "o" && shift) return newChat;
  if (key === "/") return () => (dialog.value = dialog.value === "shortcuts" ? null : "shortcuts");
  return null;
}

function alone(event: KeyboardEvent, key: string): (() => void) | null {
  if (document.querySelector("dialog[open]")) return null;
  // One that is still being fetched cannot close itself.
  if (dialog.value) return key === "escape" ? () => (dialog.value = null) : null;
  if (key === "escape") {
    if (sidebarOpen.value) return () => (sidebarOpen.value = false);
    if (streaming()) return stop;
    if (panelOpen.value) return () => (panelOpen.value = false);
    return null;
  }
  const target = event.target as HTMLElement;
  const list = target.closest(".log");
  if (!list || target.matches("input, textarea, select, button, a")) return null;
  if (key === "j") return () => step(list, 1);
  if (key === "k") return () => step(list, -1);
  const id = target.closest<HTMLElement>("[data-message]")?.dataset.message;
  const message = thread.value.map((one) => one.value).find((one) => one.id === id);
  if (!message) return null;
  if (key === "c") return () => void copyText(message.content);
  if (key === "r" && message.role === "assistant") return () => void regenerate(message.id);
  return null;
}

function step(list: Element, by: 1 | -1): void {
  const all = [...list.querySelectorAll<HTMLElement>("[data-message]")];
  const at = all.findIndex((element) => element.contains(document.activeElement));
  const next = at < 0 ? all.at(-1) : all[at + by];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}
