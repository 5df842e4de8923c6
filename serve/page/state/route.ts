import { signal } from "@preact/signals";

export const screens = [
  "chat",
  "compare",
  "documents",
  "models",
  "data",
  "finetune",
  "experiments",
  "analytics",
  "settings",
] as const;
export type Screen = (typeof screens)[number];

export interface Place {
  screen: Screen;
  /** Of the conversation; null: a new one. */
  id: string | null;
  /** Of a new conversation: the notice that it will be about. */
  about: string | null;
}

/** Where the page is: `#/models`, `#/chat/ID`, or `#/about/NOTICE`. The path stays `/`, so that every place opens without the server too. */
export const place = signal(parse(location.hash));
addEventListener("hashchange", () => {
  place.value = parse(location.hash);
});

function parse(hash: string): Place {
  const [, name, id] = hash.split("/");
  const screen = screens.find((known) => known === name) ?? "chat";
  const named = id ? decodeURIComponent(id) : null;
  return { screen, id: name === "chat" ? named : null, about: name === "about" ? named : null };
}

export const pathOf = (screen: Screen, id?: string | null): string =>
  `#/${screen}${id ? `/${encodeURIComponent(id)}` : ""}`;

/** Goes there; `replace`: without a step in the browser's history. */
export function go(screen: Screen, id: string | null = null, replace = false): void {
  if (replace) history.replaceState(null, "", pathOf(screen, id));
  else history.pushState(null, "", pathOf(screen, id));
  place.value = { screen, id, about: null };
}
addEventListener("popstate", () => {
  place.value = parse(location.hash);
});
