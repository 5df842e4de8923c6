/** @jsxImportSource react */
import { createRoot } from "react-dom/client";
import { App } from "./app.tsx";

createRoot(document.getElementById("root")!).render(<App />);
// Without a secure origin there is none, and the page works with the network alone.
if ("serviceWorker" in navigator)
  addEventListener(
    "load",
    () => void navigator.serviceWorker.register("/notices-sw.js", { scope: "/notices" }).catch(() => {}),
  );
