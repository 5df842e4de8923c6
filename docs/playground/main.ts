import { ChatTab } from "./chat_tab.ts";
import { Client } from "./client.ts";
import { byId, complain, make } from "./dom.ts";
import { KernelsTab } from "./kernels_tab.ts";
import type { Opened, RunState } from "./protocol.ts";
import { TrainTab } from "./train_tab.ts";

/** Why this browser cannot run the page, and what to do; null: it can. */
async function whyNot(): Promise<{ what: string; remedies: string[] } | null> {
  const browsers = "Use a current Chrome, Edge, Safari or Firefox.";
  if (!isSecureContext)
    return {
      what: "Browsers give WebGPU to secure pages only",
      remedies: [
        "Open this page over https, or from localhost: `npx kiln serve` and http://localhost:8000/playground.",
      ],
    };
  if (!navigator.gpu) return { what: "This browser has no WebGPU", remedies: [browsers] };
  if (await navigator.gpu.requestAdapter().catch(() => null)) return null;
  return {
    what: "This browser finds no GPU that it may use",
    remedies: [
      "Switch on hardware acceleration in the browser's settings, and start it again.",
      "Update the graphics driver.",
      "Chrome on Linux: start it with --enable-unsafe-webgpu --enable-features=Vulkan; without a GPU the first alone gives a slow software adapter.",
      browsers,
    ],
  };
}

function showAbsence({ what, remedies }: { what: string; remedies: string[] }): void {
  const absent = byId("absent");
  absent.querySelector("h2")!.textContent = what;
  absent.querySelector("ul")!.replaceChildren(...remedies.map((remedy) => make("li", {}, remedy)));
  absent.hidden = false;
  byId("app").hidden = true;
}

/** One view is shown at a time; arrow keys go from tab to tab. */
function wireTabs(): void {
  const tabs = [...document.querySelectorAll<HTMLButtonElement>("[role=tab]")];
  const select = (chosen: HTMLButtonElement) => {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")!).hidden = !isChosen;
    }
    complain("");
  };
  tabs.forEach((tab, i) => {
    tab.onclick = () => select(tab);
    tab.onkeydown = ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step === undefined) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    };
  });
}

async function start(): Promise<void> {
  const absence = await whyNot();
  if (absence) return showAbsence(absence);
  wireTabs();
  // A file that is dropped beside its place must not replace the page.
  for (const event of ["dragover", "drop"]) addEventListener(event, (given) => given.preventDefault());
  const client: Client = new Client({
    step: (report) => train.step(report),
    said: (piece) => {
      train.said(piece);
      chat.said(piece);
    },
    busy: (line) => train.busy(line),
    kept: (news) => train.kept(news),
  });
  const chat = new ChatTab(client);
  const kernels = new KernelsTab(client);
  const onRun = (run: RunState | null) => {
    chat.become(run);
    kernels.become(run);
  };
  const open = async (): Promise<Opened> => {
    const opened = await client.call("open");
    byId("adapter").textContent = opened.adapter;
    return opened;
  };
  const train = new TrainTab(client, open, onRun);
  train.begin(await open());
  byId("app").hidden = false;
}

void start().catch((error: Error) =>
  showAbsence({ what: "The page cannot start", remedies: [error.message] }),
);
// Without a service worker (a file, a private window) the page needs the network at each visit, and all else works.
void navigator.serviceWorker?.register("sw.js").catch(() => {});
