import type { ExportFormat, Params } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { change, current } from "../state/history.ts";
import { newConsent, newSystem, params, retrieve } from "../state/local.ts";
import { Field, IconButton, Options, Switch } from "./parts.tsx";
import { panelOpen } from "./shell.ts";

/** The bounds of each number, which the server has too. */
const fields: [keyof Params, { min: number; max?: number; step: number }][] = [
  ["temperature", { min: 0, max: 2, step: 0.1 }],
  ["top_p", { min: 0.01, max: 1, step: 0.01 }],
  ["max_tokens", { min: 1, step: 1 }],
  ["seed", { min: 0, step: 1 }],
];
const formats: ExportFormat[] = ["jsonl", "json", "openai", "sharegpt", "chatml", "csv"];

/**
 * How the next answers are sampled, and what belongs to this conversation. What is being typed stays, whatever comes
 * meanwhile: a field tells of itself when it is left, and would be set back before.
 */
export function Panel() {
  const conversation = current.value;
  const set = (name: keyof Params, text: string) => {
    const { [name]: _, ...rest } = params.value;
    params.value = text === "" || !Number.isFinite(Number(text)) ? rest : { ...rest, [name]: Number(text) };
  };
  return (
    <aside class="panel" aria-label={t.panel.title}>
      <header>
        <h2>{t.panel.title}</h2>
        <IconButton icon="close" label={t.app.close} onClick={() => (panelOpen.value = false)} />
      </header>
      {fields.map(([name, bounds]) => (
        <Field key={name} label={t.panel.fields[name]} hint={t.panel.hints[name]}>
          <input
            type="number"
            inputMode="decimal"
            placeholder={t.panel.byModel}
            {...bounds}
            defaultValue={params.value[name] ?? ""}
            onChange={(event) => set(name, event.currentTarget.value)}
          />
        </Field>
      ))}
      <Field label={t.panel.system} hint={t.panel.systemHint}>
        <textarea
          key={conversation?.id}
          rows={4}
          defaultValue={conversation ? (conversation.system ?? "") : newSystem.value}
          onChange={(event) => {
            const text = event.currentTarget.value;
            if (conversation) void change(conversation.id, { system: text || null });
            else newSystem.value = text;
          }}
        />
      </Field>
      <Field label={t.panel.documents} hint={t.panel.documentsHint}>
        <select
          value={retrieve.value}
          onChange={(event) => (retrieve.value = event.currentTarget.value as typeof retrieve.value)}
        >
          <Options of={t.panel.retrieve} />
        </select>
      </Field>
      <Switch
        label={t.panel.consent}
        hint={t.panel.consentHint}
        on={conversation ? conversation.consent : newConsent.value}
        set={(on) => {
          if (conversation) void change(conversation.id, { consent: on });
          else newConsent.value = on;
        }}
      />
      {conversation && (
        <div class="field">
          <span>{t.panel.export}</span>
          <div class="links">
            {formats.map((format) => (
              <a key={format} download href={`/api/conversations/${conversation.id}/export?format=${format}`}>
                {t.data.formats[format]}
              </a>
            ))}
          </div>
        </div>
      )}
    </aside>
  );
}
