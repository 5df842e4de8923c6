import { t } from "../messages.en.ts";
import { open, send, thread, threadState } from "../state/chat.ts";
import { current } from "../state/history.ts";
import { linkState } from "../state/link.ts";
import { chatModels, modelInfo, models } from "../state/models.ts";
import { place } from "../state/route.ts";
import { Composer } from "./composer.tsx";
import { lazy } from "./lazy.tsx";
import { Log } from "./log.tsx";
import { ModelMenu } from "./model_menu.tsx";
import { IconButton } from "./parts.tsx";
import { SidebarButton } from "./screen.tsx";
import { panelOpen, sourceShown } from "./shell.ts";
import { newChat } from "./sidebar.tsx";

const Panel = lazy(async () => (await import("./dialogs.ts")).Panel);
const SourcePanel = lazy(async () => (await import("./dialogs.ts")).SourcePanel);

export function Chat() {
  const isEmpty = thread.value.length === 0;
  return (
    <div class="chat">
      <div class="column">
        <header class="bar">
          <SidebarButton />
          <h1 class="hidden">{current.value?.title ?? t.chat.new}</h1>
          <ModelMenu />
          <span class="grow" />
          <IconButton
            icon="sliders"
            label={t.panel.title}
            aria-expanded={panelOpen.value}
            onClick={() => (panelOpen.value = !panelOpen.value)}
          />
          <IconButton icon="plus" class="narrow-only" label={t.chat.new} onClick={newChat} />
        </header>
        {isEmpty ? <Empty /> : <Log />}
        <Composer />
      </div>
      {sourceShown.value ? <SourcePanel of={sourceShown.value} /> : panelOpen.value && <Panel />}
    </div>
  );
}

/** Instead of messages: what loads, what went wrong, or how to begin. */
function Empty() {
  const id = place.value.id;
  const model = modelInfo();
  if (threadState.value === "failed" && id)
    return (
      <div class="middle">
        <div class="notice error" role="alert">
          <p>{t.chat.notLoaded}</p>
          <button type="button" onClick={() => void open(id)}>
            {t.app.retry}
          </button>
        </div>
      </div>
    );
  if (threadState.value === "loading" || (models.value === null && linkState.value.state === "connecting"))
    return <div class="middle skeleton" role="status" aria-label={t.app.loading} />;
  if (models.value !== null && chatModels().length === 0)
    return (
      <div class="middle">
        <h2>{t.models.none}</h2>
        <p>
          {t.models.noneHow} <code>{t.models.trainCommand}</code>
        </p>
      </div>
    );
  const offline = linkState.value.state !== "online";
  return (
    <div class="middle">
      <h2>{model ? t.chat.greeting(model.name) : t.chat.greetingNobody}</h2>
      <ul class="examples">
        {(model?.examples ?? []).slice(0, 3).map((example) => (
          <li key={example}>
            <button type="button" disabled={offline} onClick={() => send(example)}>
              {example}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
