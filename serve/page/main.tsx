import { render } from "preact";
import { App } from "./app/app.tsx";

render(<App />, document.getElementById("root")!);
// Without a secure origin there is none, and the page works with the network alone.
if ("serviceWorker" in navigator)
  addEventListener("load", () => void navigator.serviceWorker.register("/sw.js").catch(() => {}));
