// One file for the browser to fetch: what opens over or beside the chat.
export { Reason } from "./feedback.tsx";
export { Login } from "./login.tsx";
export { Panel } from "./panel.tsx";
export { SearchDialog } from "./search.tsx";
export { ShortcutsDialog } from "./shortcuts.tsx";
export { SourcePanel } from "./source_panel.tsx";
export { Why } from "./why.tsx";
