import { useSignalEffect } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect } from "preact/hooks";
import type { Me, ModelList } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { ApiError, api, needsLogin } from "../state/api.ts";
import { link, open, openNew, thread } from "../state/chat.ts";
import { conversations, loadHistory, toast } from "../state/history.ts";
import { linkState } from "../state/link.ts";
import { setModels } from "../state/models.ts";
import { user } from "../state/people.ts";
import { place, type Screen } from "../state/route.ts";
import { takeSettings } from "../state/settings.ts";
import { Banner } from "./banner.tsx";
import { Chat } from "./chat.tsx";
import { Keyboard } from "./keyboard.tsx";
import { lazy } from "./lazy.tsx";
import { dialog, sidebarOpen } from "./shell.ts";
import { Sidebar } from "./sidebar.tsx";

/** What is fetched when it is opened: the screens beside the chat, and what lies over it. */
const screens = () => import("./screens.ts");
const dialogs = () => import("./dialogs.ts");
const later: Record<Exclude<Screen, "chat">, ComponentType> = {
  compare: lazy(async () => (await screens()).Compare, true),
  documents: lazy(async () => (await screens()).Documents, true),
  models: lazy(async () => (await screens()).Models, true),
  data: lazy(async () => (await screens()).Data, true),
  finetune: lazy(async () => (await screens()).FineTune, true),
  experiments: lazy(async () => (await screens()).Experiments, true),
  analytics: lazy(async () => (await screens()).Analytics, true),
  settings: lazy(async () => (await screens()).Settings, true),
};
const Login = lazy(async () => (await dialogs()).Login);
const overPage = {
  search: lazy(async () => (await dialogs()).SearchDialog),
  shortcuts: lazy(async () => (await dialogs()).ShortcutsDialog),
};

/** Who this is comes first: without that nothing else is asked for. */
async function begin(): Promise<void> {
  try {
    const { settings, ...person } = await api<Me>("GET", "/api/me");
    user.value = person;
    takeSettings(settings);
    needsLogin.value = false;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return;
  }
  link.connect();
}

/** What the service worker kept, where the server does not answer. */
function readOffline(): void {
  void loadHistory();
  void api<ModelList>("GET", "/api/models").then(
    (list) => setModels(list.models, list.default_model),
    () => {}, // the banner says why
  );
  const { id } = place.peek();
  if (id && thread.peek().length === 0) void open(id);
}

export function App() {
  useEffect(() => void begin(), []);
  useSignalEffect(() => {
    const { screen, id } = place.value;
    if (screen !== "chat") return;
    const isShown = thread.peek().some((one) => one.peek().conversation_id === id);
    if (id === null) openNew();
    else if (!isShown && linkState.peek().state !== "connecting") void open(id);
  });
  useSignalEffect(() => {
    if (linkState.value.state === "offline" && conversations.peek() === null) readOffline();
  });
  if (needsLogin.value) return <Login done={() => void begin()} />;
  const Dialog = dialog.value && overPage[dialog.value];
  const Content = place.value.screen === "chat" ? Chat : later[place.value.screen];
  return (
    <div class={sidebarOpen.value ? "app sidebar-open" : "app"}>
      <a class="skip" href="#main" onClick={skip}>
        {t.app.skip}
      </a>
      <Sidebar />
      <main id="main" tabIndex={-1}>
        <Banner />
        <Content />
      </main>
      <Toast />
      <Keyboard />
      {Dialog && <Dialog />}
    </div>
  );
}

/** The fragment of an address is the place, so a link of the page's own moves the focus itself. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Toast() {
  const shown = toast.value;
  return (
    <div class="toast" role="status">
      {shown && (
        <>
          <span>{shown.text}</span>
          {shown.action && (
            <button type="button" onClick={shown.action.run}>
              {shown.action.name}
            </button>
          )}
        </>
      )}
    </div>
  );
}
