import { signal } from "@preact/signals";
import type { Citation } from "../../app/protocol.ts";

/** What is open over the page. */
export const dialog = signal<"search" | "shortcuts" | null>(null);
/** The sidebar, where the screen is too narrow to show it always. */
export const sidebarOpen = signal(false);
/** The message that is being edited. */
export const editing = signal<string | null>(null);
/** The parameters beside the chat. */
export const panelOpen = signal(false);

/** The source beside the chat. */
export const sourceShown = signal<Citation | null>(null);

export const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

/** Puts the cursor into the composer. */
export const focusComposer = (): void => document.getElementById("composer")?.focus();
