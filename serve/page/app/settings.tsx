import { useRef, useState } from "preact/hooks";
import type { Deleted, ImportResult, KeyList, NewKey, ProviderList } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { date, number } from "../render/format.ts";
import { api } from "../state/api.ts";
import { attempt, loadHistory, say } from "../state/history.ts";
import { forget, theme } from "../state/local.ts";
import { forgetCaches, logout, user } from "../state/people.ts";
import { Field, Form, Loaded, Modal, Table } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { Copy } from "./text.tsx";
import { useLoaded } from "./use_loaded.ts";

export function Settings() {
  const person = user.value;
  return (
    <ScreenFrame title={t.screens.settings}>
      <section>
        <h2>{t.settings.appearance}</h2>
        <fieldset class="choices">
          <legend>{t.settings.theme}</legend>
          {(["system", "light", "dark"] as const).map((value) => (
            <label key={value}>
              <input
                type="radio"
                name="theme"
                checked={theme.value === value}
                onChange={() => (theme.value = value)}
              />
              {t.theme.names[value]}
            </label>
          ))}
        </fieldset>
      </section>
      {person?.mode === "multi" && (
        <section>
          <h2>{t.settings.account}</h2>
          <p class="row">
            {t.settings.signedIn(person.name, person.role)}
            <button type="button" onClick={() => void attempt(logout)}>
              {t.settings.signOut}
            </button>
          </p>
        </section>
      )}
      <Keys />
      <Providers />
      <OwnData />
    </ScreenFrame>
  );
}

/** Keys for programs. A new one is shown once. */
function Keys() {
  const { data, error, load } = useLoaded(() => api<KeyList>("GET", "/api/keys"));
  const [made, setMade] = useState<NewKey | null>(null);
  async function make(event: SubmitEvent) {
    event.preventDefault();
    const key = await attempt(() => api<NewKey>("POST", "/api/keys", {}));
    if (!key) return;
    setMade(key);
    load();
  }
  const revoke = async (id: string) => {
    await attempt(() => api("DELETE", `/api/keys/${id}`));
    load();
  };
  return (
    <section>
      <h2>{t.settings.keys}</h2>
      <p class="note">{t.settings.keysHow}</p>
      <Loaded data={data} error={error} retry={load}>
        {({ keys }) =>
          keys.length === 0 ? (
            <p>{t.settings.noKeys}</p>
          ) : (
            <Table
              caption={t.settings.keys}
              head={[...t.settings.keyColumns]}
              rows={keys.map(({ id, prefix, scopes, created_at, last_used_at }) => [
                <code>{prefix}…</code>,
                scopes.join(", ") || t.settings.noScopes,
                date(created_at),
                last_used_at === null ? t.settings.never : date(last_used_at),
                <button
                  type="button"
                  class="danger"
                  aria-label={t.settings.revokeKey(prefix)}
                  onClick={() => void revoke(id)}
                >
                  {t.settings.revoke}
                </button>,
              ])}
            />
          )
        }
      </Loaded>
      <form onSubmit={make}>
        <button type="submit">{t.settings.newKey}</button>
      </form>
      {made && (
        <Modal title={t.settings.newKey} close={() => setMade(null)}>
          <p>{t.settings.shownOnce}</p>
          <p class="row">
            <code class="token">{made.token}</code>
            <Copy text={made.token} label={t.chat.copy} />
          </p>
        </Modal>
      )}
    </section>
  );
}

function Providers() {
  const { data, error, load } = useLoaded(() => api<ProviderList>("GET", "/api/providers"));
  return (
    <section>
      <h2>{t.settings.providers}</h2>
      <Loaded data={data} error={error} retry={load}>
        {({ providers }) =>
          providers.length === 0 ? (
            <p class="note">{t.settings.noProviders}</p>
          ) : (
            <Table
              caption={t.settings.providers}
              head={[...t.settings.providerColumns]}
              rows={providers.map(({ name, dialect, base_url, models, key, circuit }) => [
                <b>{name}</b>,
                dialect,
                base_url ?? "–",
                models.join(", "),
                t.settings.keyStates[key],
                t.settings.circuits[circuit],
              ])}
            />
          )
        }
      </Loaded>
    </section>
  );
}

/** All that a person wrote: to take along, or to remove. */
function OwnData() {
  const [asking, setAsking] = useState(false);
  const [left, setLeft] = useState<ImportResult["skipped"]>([]);
  const picker = useRef<HTMLInputElement>(null);
  async function bring(input: HTMLInputElement) {
    const form = new FormData();
    form.set("file", input.files![0]!);
    input.value = "";
    const result = await attempt(() => api<ImportResult>("POST", "/api/conversations/import", form));
    if (!result) return;
    void loadHistory();
    setLeft(result.skipped);
    say(t.settings.imported(result.conversations, result.skipped.length));
  }
  async function remove() {
    setAsking(false);
    const result = await attempt(() => api<Deleted>("DELETE", "/api/me/data"));
    if (!result) return;
    forget();
    await forgetCaches();
    void loadHistory();
    const rows = Object.values(result.deleted).reduce((sum, count) => sum + count, 0);
    say(t.settings.removed(number(rows)));
  }
  return (
    <section>
      <h2>{t.settings.data}</h2>
      <div class="row">
        <a class="button" download href="/api/me/data?format=jsonl">
          {t.settings.exportAll}
        </a>
        <a class="button" download href="/api/me/notices">
          {t.settings.exportNotices}
        </a>
        <button type="button" onClick={() => picker.current?.click()}>
          {t.settings.import}
        </button>
        <input
          hidden
          type="file"
          aria-label={t.settings.import}
          ref={picker}
          onChange={(event) => void bring(event.currentTarget)}
        />
        <button type="button" class="danger" onClick={() => setAsking(true)}>
          {t.settings.remove}
        </button>
      </div>
      {left.length > 0 && (
        <Table
          caption={t.settings.leftOut}
          head={[...t.settings.leftOutColumns]}
          rows={left.slice(0, 100).map(({ row, code, message }) => [number(row), code, message])}
        />
      )}
      {asking && (
        <Modal title={t.settings.remove} close={() => setAsking(false)}>
          <p>{t.settings.removeWhat}</p>
          <Confirm run={() => void remove()} />
        </Modal>
      )}
    </section>
  );
}

/** What cannot be undone wants a word typed. */
function Confirm({ run }: { run: () => void }) {
  const [text, setText] = useState("");
  return (
    <Form submit={run}>
      <Field label={t.settings.typeToConfirm(t.settings.confirmWord)}>
        <input value={text} autocomplete="off" onInput={(event) => setText(event.currentTarget.value)} />
      </Field>
      <div class="row end">
        <button type="submit" class="danger" disabled={text !== t.settings.confirmWord}>
          {t.settings.remove}
        </button>
      </div>
    </Form>
  );
}
