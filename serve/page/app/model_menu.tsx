import { useEffect, useRef, useState } from "preact/hooks";
import type { ModelInfo } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { hue, short } from "../render/format.ts";
import { chooseModel } from "../state/chat.ts";
import { chatModels, modelInfo, modelName, models } from "../state/models.ts";
import { Icon } from "./parts.tsx";
import { focusComposer } from "./shell.ts";

/** What is known of a model, in one line. */
export function modelFacts(model: ModelInfo): string {
  const { kind, parameters, context_length, tokens_per_second, provider } = model;
  return [
    provider === "local" ? t.models.kinds[kind] : provider,
    parameters !== null && t.models.parameters(short(parameters)),
    context_length !== null && t.models.context(short(context_length)),
    tokens_per_second !== null && t.models.speed(short(tokens_per_second)),
  ]
    .filter(Boolean)
    .join(" · ");
}

export function ModelMenu() {
  const [isOpen, setOpen] = useState(false);
  const element = useRef<HTMLDivElement>(null);
  const model = modelInfo();
  useEffect(() => {
    if (!isOpen) return;
    const outside = (event: Event) => !element.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", outside);
    element.current?.querySelector<HTMLElement>("[aria-checked=true], [role=menuitemradio]")?.focus();
    return () => document.removeEventListener("pointerdown", outside);
  }, [isOpen]);
  const onKeyDown = (event: KeyboardEvent) => {
    if (!isOpen) return;
    if (event.key === "Escape") {
      event.stopPropagation();
      setOpen(false);
      element.current?.querySelector("button")?.focus();
    }
    move(event, element.current!);
  };
  return (
    <div
      class="model-menu"
      ref={element}
      role="presentation"
      onKeyDown={onKeyDown}
      style={{ "--hue": String(hue(model?.name ?? "")) }}
    >
      <button type="button" aria-haspopup="menu" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
        <span class="hidden">{t.models.choose}</span>
        <b class="clip">{models.value === null ? t.models.loading : (modelName() ?? t.models.nobody)}</b>
        {model && model.state !== "ready" ? <State model={model} /> : model && <Facts model={model} />}
        <Icon name="below" />
      </button>
      {isOpen && (
        <div role="menu" aria-label={t.models.choose}>
          {models.value === null && <p class="spinner">{t.models.loading}</p>}
          {models.value !== null && chatModels().length === 0 && <p>{t.models.none}</p>}
          {chatModels().map((one) => (
            <Choice key={one.name} model={one} close={() => setOpen(false)} />
          ))}
        </div>
      )}
    </div>
  );
}

const Facts = ({ model }: { model: ModelInfo }) => <small class="facts clip">{modelFacts(model)}</small>;

function State({ model }: { model: ModelInfo }) {
  if (model.state === "failed") return <small class="error">{t.models.states.failed}</small>;
  if (model.state === "loading") return <small>{t.models.loadingAt(model.progress ?? 0)}</small>;
  return <small class="facts">{t.models.states[model.state]}</small>;
}

function Choice({ model, close }: { model: ModelInfo; close: () => void }) {
  const { name, state, error, log } = model;
  return (
    <button
      type="button"
      role="menuitemradio"
      aria-checked={name === modelName()}
      disabled={state === "failed"}
      style={{ "--hue": String(hue(name)) }}
      onClick={() => {
        chooseModel(name);
        close();
        focusComposer();
      }}
    >
      <b>{name}</b>
      <small>{modelFacts(model)}</small>
      {state !== "ready" && <State model={model} />}
      {state === "loading" && (
        <progress aria-label={t.models.states.loading} value={model.progress ?? 0} max={1} />
      )}
      {error && (
        <small class="error">
          {error} {log && <code>{log}</code>}
        </small>
      )}
    </button>
  );
}

/** Arrows go from one entry to the next, round the ends. */
function move(event: KeyboardEvent, menu: Element): void {
  const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
  if (step === 0) return;
  event.preventDefault();
  const entries = [...menu.querySelectorAll<HTMLElement>("[role=menuitemradio]:not([disabled])")];
  const at = entries.indexOf(document.activeElement as HTMLElement);
  entries[(at + step + entries.length) % entries.length]?.focus();
}
