import type { ComponentChildren, JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../messages.en.ts";
import { hue } from "../render/format.ts";

/** Strokes of 1.5 in a square of 16. */
const icons = {
  menu: "M2 4h12M2 8h12M2 12h12",
  plus: "M8 3v10M3 8h10",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM11 11l3 3",
  send: "M8 13V3M4 7l4-4 4 4",
  stop: "M4 4h8v8H4z",
  copy: "M5 5h8v8H5zM3 11V3h8",
  check: "M3 8.5l3.5 3.5L13 4.5",
  again: "M13 8a5 5 0 1 1-1.5-3.5M13 2v3h-3",
  up: "M5 7l3-5c1 0 1.6 1 1.4 2L9 6.5h4l-1 6.5H5zM5 7H2.5v6H5",
  down: "M5 9l3 5c1 0 1.6-1 1.4-2L9 9.5h4L12 3H5zM5 9H2.5V3H5",
  edit: "M3 13l.8-3L11 2.8 13.2 5 6 12.2z",
  left: "M10 3L5 8l5 5",
  right: "M6 3l5 5-5 5",
  below: "M3 6l5 5 5-5",
  sliders: "M2 5h6M12 5h2M2 11h2M8 11h6M10 3.2v3.6M6 9.2v3.6",
  close: "M4 4l8 8M12 4l-8 8",
  pin: "M6 2h4l-.5 4L12 9H4l2.5-3zM8 9v5",
  bin: "M3 4h10M6 4V2.5h4V4M4.5 4l.5 9.5h6l.5-9.5",
  system: "M2 3h12v8H2zM5 13.5h6",
  light:
    "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7",
  dark: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z",
  why: "M6 6a2 2 0 1 1 3 1.7c-.7.5-1 .8-1 1.8M8 12v.5",
  chat: "M2 3h12v8H7l-3 3v-3H2z",
  compare: "M2 3h5v10H2zM9 3h5v10H9z",
  documents: "M4 2h5l3 3v9H4zM9 2v3h3M6 8h4M6 11h4",
  notices: "M3 2h10v12H3zM5.5 5h5M5.5 8h5M5.5 11h3",
  clip: "M12 7l-4.5 4.5a2.5 2.5 0 0 1-3.5-3.5L9 3a1.7 1.7 0 0 1 2.4 2.4l-5 5",
  microphone: "M6 4a2 2 0 0 1 4 0v4a2 2 0 0 1-4 0zM3 8a5 5 0 0 0 10 0M8 13v2",
  speaker: "M2 6v4h3l4 3V3L5 6zM11 6a3 3 0 0 1 0 4",
  models: "M8 2l6 3-6 3-6-3zM2 8l6 3 6-3M2 11l6 3 6-3",
  data: "M3 4c0-2.5 10-2.5 10 0v8c0 2.5-10 2.5-10 0zM3 4c0 2.5 10 2.5 10 0M3 8c0 2.5 10 2.5 10 0",
  finetune: "M2 12c3 0 3-8 6-8s3 8 6 8M2 14h12",
  experiments: "M6 2h4M7 2v4l-4 7h10L9 6V2",
  analytics: "M2 14h12M4 12V8M8 12V3M12 12V6",
  settings:
    "M8 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM8 1.5v2M8 12.5v2M1.5 8h2M12.5 8h2M3.4 3.4l1.4 1.4M11.2 11.2l1.4 1.4M3.4 12.6l1.4-1.4M11.2 4.8l1.4-1.4",
};
export type IconName = keyof typeof icons;

export const Icon = ({ name }: { name: IconName }) => (
  <svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    <path d={icons[name]} />
  </svg>
);

type ButtonProps = Omit<JSX.IntrinsicElements["button"], "icon" | "label"> & {
  icon: IconName;
  label: string;
};

/** A button that is an icon, with its name for those who hear it and as a tip. */
export const IconButton = ({ icon, label, class: name = "", ...rest }: ButtonProps) => (
  <button type="button" class={`icon-button ${name}`} aria-label={label} title={label} {...rest}>
    <Icon name={icon} />
  </button>
);

/** A model's name with its hue, which only repeats what the name says. */
export const ModelChip = ({ name, note }: { name: string; note?: string | null }) => (
  <span class="chip" style={{ "--hue": String(hue(name)) }}>
    {name}
    {note && <small>{note}</small>}
  </span>
);

/** A dialog over the page; Escape and a click beside it close it, and the focus goes back to where it was. */
export function Modal(props: {
  title: string;
  close: () => void;
  class?: string;
  children: ComponentChildren;
}) {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const before = document.activeElement;
    const opened = element.current!;
    opened.showModal();
    return () => {
      // Who has closed it by a key may be elsewhere by now.
      const now = document.activeElement;
      if (now !== document.body && !opened.contains(now)) return;
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={element}
      class={`modal ${props.class ?? ""}`}
      aria-label={props.title}
      onClose={props.close}
      onClick={(event) => event.target === element.current && props.close()}
    >
      <div class="modal-body">
        <header>
          <h2>{props.title}</h2>
          <IconButton icon="close" label={t.app.close} onClick={props.close} />
        </header>
        {props.children}
      </div>
    </dialog>
  );
}

/** A label over a field. */
export const Field = (props: { label: string; hint?: string; children: ComponentChildren }) => (
  <label class="field">
    <span>{props.label}</span>
    {props.children}
    {props.hint && <small>{props.hint}</small>}
  </label>
);

/** What a select offers: names, or values with their names. */
export const Options = ({ of }: { of: readonly string[] | Readonly<Record<string, string>> }) => (
  <>
    {(Array.isArray(of) ? of.map((name) => [name, name]) : Object.entries(of)).map(([value, name]) => (
      <option key={value} value={value}>
        {name}
      </option>
    ))}
  </>
);

export const Switch = (props: { label: string; hint?: string; on: boolean; set: (on: boolean) => void }) => (
  <label class="field switch">
    <input
      type="checkbox"
      role="switch"
      checked={props.on}
      onChange={(event) => props.set(event.currentTarget.checked)}
    />
    <span>{props.label}</span>
    {props.hint && <small>{props.hint}</small>}
  </label>
);

/** A form that does `submit` and stays on the page. */
export const Form = ({ submit, ...rest }: JSX.IntrinsicElements["form"] & { submit: () => unknown }) => (
  <form
    {...rest}
    onSubmit={(event) => {
      event.preventDefault();
      void submit();
    }}
  />
);

/** Why something failed, where there is anything to say. */
export const Failure = ({ of }: { of: string | null | undefined }) =>
  of ? (
    <p class="error" role="alert">
      {of}
    </p>
  ) : null;

/** Names with their values, in columns. */
export const FactsGrid = ({ facts }: { facts: readonly (readonly [name: string, value: string])[] }) => (
  <dl class="facts-grid">
    {facts.map(([name, value]) => (
      <div key={name}>
        <dt>{name}</dt>
        <dd>{value}</dd>
      </div>
    ))}
  </dl>
);

/** What a screen shows of data that is loaded: a frame while it loads, why it failed, or the data. */
export function Loaded<T>(props: {
  data: T | null;
  error: string | null;
  retry: () => void;
  children: (data: T) => ComponentChildren;
}) {
  if (props.error !== null)
    return (
      <div class="notice error" role="alert">
        <p>{props.error}</p>
        <button type="button" onClick={props.retry}>
          {t.app.retry}
        </button>
      </div>
    );
  if (props.data === null) return <div class="skeleton" role="status" aria-label={t.app.loading} />;
  return <>{props.children(props.data)}</>;
}

/** A table that becomes cards on a narrow screen: each cell carries its column's name. Its caption is a heading above it. */
export function Table(props: { caption: string; head: string[]; rows: ComponentChildren[][] }) {
  return (
    <table class={props.head.length > 6 ? "cards broad" : "cards"}>
      <caption class="hidden">{props.caption}</caption>
      <thead>
        <tr>
          {props.head.map((name) => (
            <th key={name} scope="col">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {props.rows.map((row, index) => (
          <tr key={index}>
            {row.map((cell, column) => (
              <td key={props.head[column]} data-label={props.head[column]}>
                {cell}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
