import { useState } from "preact/hooks";
import type { Conversation } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { change, conversations, historyError, loadHistory, older, remove } from "../state/history.ts";
import { theme } from "../state/local.ts";
import { go, pathOf, place, screens } from "../state/route.ts";
import { Icon, IconButton } from "./parts.tsx";
import { dialog, focusComposer, isMac, sidebarOpen } from "./shell.ts";

const day = 86_400_000;

/** Conversations under the heading that their last change belongs to. */
function groups(list: readonly Conversation[]): [string, Conversation[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const names = [t.history.pinned, t.history.today, t.history.week, t.history.older];
  const place = ({ pinned, updated_at }: Conversation) =>
    pinned ? 0 : updated_at >= today ? 1 : updated_at >= today - 6 * day ? 2 : 3;
  return names
    .map((name, index): [string, Conversation[]] => [name, list.filter((one) => place(one) === index)])
    .filter(([, members]) => members.length > 0);
}

export function newChat(): void {
  go("chat");
  sidebarOpen.value = false;
  requestAnimationFrame(focusComposer);
}

export function Sidebar() {
  const themes = ["system", "light", "dark"] as const;
  const next = themes[(themes.indexOf(theme.value) + 1) % 3];
  return (
    <>
      <div class="shade" onClick={() => (sidebarOpen.value = false)} />
      <nav class="sidebar" aria-label={t.history.title}>
        <div class="sidebar-top">
          <button type="button" class="primary wide" onClick={newChat}>
            <Icon name="plus" /> {t.chat.new}
          </button>
          <IconButton
            icon="search"
            label={t.search.open(t.keys.modifier(isMac))}
            onClick={() => (dialog.value = "search")}
          />
          <IconButton
            icon="close"
            class="narrow-only"
            label={t.app.closeSidebar}
            onClick={() => (sidebarOpen.value = false)}
          />
        </div>
        <History />
        <ul class="screens">
          {screens.slice(1).map((screen) => (
            <li key={screen}>
              <a
                href={pathOf(screen)}
                aria-current={place.value.screen === screen ? "page" : undefined}
                onClick={() => (sidebarOpen.value = false)}
              >
                <Icon name={screen} /> {t.screens[screen]}
              </a>
            </li>
          ))}
          <li>
            <a href="/notices">
              <Icon name="notices" /> {t.screens.notices}
            </a>
          </li>
          <li>
            <button type="button" onClick={() => (theme.value = next)}>
              <Icon name={theme.value} /> {t.theme.is(t.theme.names[theme.value])}
            </button>
          </li>
        </ul>
      </nav>
    </>
  );
}

function History() {
  const list = conversations.value;
  if (list === null)
    return historyError.value ? (
      <div class="history note">
        <p>{historyError.value}</p>
        <button type="button" onClick={() => void loadHistory()}>
          {t.app.retry}
        </button>
      </div>
    ) : (
      <div class="history skeleton" role="status" aria-label={t.app.loading} />
    );
  return (
    <div class="history">
      {list.length === 0 && <p class="note">{t.history.empty}</p>}
      {groups(list).map(([name, members]) => (
        <section key={name} aria-label={name}>
          <h2>{name}</h2>
          <ul>
            {members.map((one) => (
              <Entry key={one.id} conversation={one} />
            ))}
          </ul>
        </section>
      ))}
      {older.value && (
        <button type="button" class="quiet" onClick={() => void loadHistory(true)}>
          {t.history.more}
        </button>
      )}
    </div>
  );
}

function Entry({ conversation }: { conversation: Conversation }) {
  const { id, title, pinned, running } = conversation;
  const [renaming, setRenaming] = useState(false);
  const name = title ?? t.chat.untitled;
  if (renaming) {
    const save = (value: string) => {
      setRenaming(false);
      if (value.trim() && value !== title) void change(id, { title: value.trim() });
    };
    return (
      <li>
        <input
          class="rename"
          aria-label={t.history.rename(name)}
          value={name}
          ref={(input) => input?.focus()}
          onBlur={(event) => save(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter") save(event.currentTarget.value);
            if (event.key === "Escape") setRenaming(false);
          }}
        />
      </li>
    );
  }
  return (
    <li>
      <a
        href={pathOf("chat", id)}
        aria-current={place.value.id === id ? "page" : undefined}
        onClick={() => (sidebarOpen.value = false)}
      >
        {running && <span class="dot" role="img" aria-label={t.history.running} />}
        <span class="clip">{name}</span>
      </a>
      <span class="entry-actions">
        <IconButton
          icon="pin"
          label={pinned ? t.history.unpin(name) : t.history.pin(name)}
          aria-pressed={pinned}
          onClick={() => void change(id, { pinned: !pinned })}
        />
        <IconButton icon="edit" label={t.history.rename(name)} onClick={() => setRenaming(true)} />
        <IconButton icon="bin" label={t.history.remove(name)} onClick={() => void remove(conversation)} />
      </span>
    </li>
  );
}
