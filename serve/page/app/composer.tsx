import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Notice, TokensResult } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { number } from "../render/format.ts";
import { api } from "../state/api.ts";
import { send, stop, streaming, thread } from "../state/chat.ts";
import { current } from "../state/history.ts";
import { linkState } from "../state/link.ts";
import { draftOf, keepDraft, newSystem } from "../state/local.ts";
import { modelInfo, modelName } from "../state/models.ts";
import { go, place } from "../state/route.ts";
import { lazy } from "./lazy.tsx";
import { Form, Icon, IconButton } from "./parts.tsx";
import { editing } from "./shell.ts";

const Dictate = lazy(async () => (await import("./voice.tsx")).Dictate);
const canHear = () => "SpeechRecognition" in window || "webkitSpeechRecognition" in window;

/** Where a message is written. Its text is kept until the server has accepted it. */
export function Composer() {
  const id = place.value.id;
  const [text, setText] = useState(() => draftOf(id));
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => setText(draftOf(id)), [id]);
  useEffect(() => field.current?.focus(), [id]);
  useLayoutEffect(() => grow(field.current!), [text]);
  const busy = streaming();
  const model = modelInfo();
  const blocked = linkState.value.state !== "online" || !model || model.state === "failed";
  const submit = () => {
    if (busy || blocked || !text.trim() || !send(text.trim())) return;
    setText("");
  };
  const hear = (said: string) => {
    const longer = text ? `${text.trimEnd()} ${said}` : said;
    setText(longer);
    keepDraft(id, longer);
  };
  return (
    <Form class="composer" submit={submit}>
      <About />
      <div class="box">
        <textarea
          id="composer"
          ref={field}
          rows={1}
          aria-label={t.chat.message}
          placeholder={t.chat.placeholder(modelName() ?? "")}
          value={text}
          onInput={(event) => {
            setText(event.currentTarget.value);
            keepDraft(id, event.currentTarget.value);
          }}
          onKeyDown={(event) => onKey(event, text, submit)}
        />
        <div class="composer-foot">
          <span class="row">
            <IconButton icon="clip" label={t.chat.attach} onClick={attach} />
            {canHear() && <Dictate hear={hear} />}
            <Counter text={text} />
          </span>
          {busy ? (
            <IconButton
              icon="stop"
              class="primary"
              label={t.chat.stop}
              disabled={busy.request !== null}
              onClick={stop}
            />
          ) : (
            <IconButton
              icon="send"
              class="primary"
              type="submit"
              label={t.chat.send}
              disabled={blocked || !text.trim()}
            />
          )}
        </div>
      </div>
    </Form>
  );
}

/** The notice that the conversation is about, if it is. */
function About() {
  const { id, about } = place.value;
  const notice = id === null ? about : (current.value?.notice_id ?? null);
  const [text, setText] = useState("");
  useEffect(() => {
    if (notice === null) return;
    let over = false;
    setText("");
    api<Notice>("GET", `/api/notices/${encodeURIComponent(notice)}`).then(
      ({ title }) => !over && setText(t.chat.about(title)),
      () => !over && setText(t.chat.aboutGone),
    );
    return () => {
      over = true;
    };
  }, [notice]);
  if (notice === null) return null;
  return (
    <p class="about note">
      <Icon name="notices" /> <span class="clip">{text}</span>
      {id === null && <IconButton icon="close" label={t.chat.aboutEnd} onClick={() => go("chat")} />}
    </p>
  );
}

/** Lets a person choose files, which become documents of theirs. */
function attach(): void {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", multiple: true });
  input.onchange = async () => (await import("../state/documents.ts")).upload(input.files ?? []);
  input.click();
}

/** As high as its text, up to 8 lines. */
function grow(field: HTMLTextAreaElement): void {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function onKey(event: KeyboardEvent, text: string, submit: () => void): void {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
  if (event.key === "ArrowUp" && text === "") {
    const last = thread.value.map((one) => one.peek()).findLast(({ role }) => role === "user");
    if (!last || last.request) return;
    event.preventDefault();
    editing.value = last.id;
  }
}

/** How many tokens the prompt would have, by the model's own tokenizer, of those that it can read. */
function Counter({ text }: { text: string }) {
  const [count, setCount] = useState<TokensResult | null>(null);
  const model = modelName();
  const conversation_id = place.value.id;
  const last = thread.value.at(-1)?.value;
  const online = linkState.value.state === "online";
  useEffect(() => {
    if (!model || !online || last?.status === "streaming") return;
    let over = false;
    const system = conversation_id === null ? newSystem.peek() || null : null;
    const body = { model, text, conversation_id, parent_id: last?.id ?? null, ...(system && { system }) };
    const timer = setTimeout(() => {
      api<TokensResult>("POST", "/api/tokens", body).then(
        (result) => !over && setCount(result),
        () => !over && setCount(null),
      );
    }, 200);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [text, model, conversation_id, last?.id, last?.status, online]);
  if (!count) return <small class="counter" />;
  const full = count.tokens > count.context_length;
  return (
    <small class={full ? "counter error" : "counter"} title={t.chat.counterTip}>
      {t.chat.counter(number(count.tokens), number(count.context_length))}
    </small>
  );
}
