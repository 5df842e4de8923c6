import { useState } from "preact/hooks";
import { t } from "../messages.en.ts";
import { dollars, hue, milliseconds, number } from "../render/format.ts";
import { goOn, regenerate, retry, type Shown } from "../state/chat.ts";
import { chatModels } from "../state/models.ts";
import { Branches } from "./branches.tsx";
import { lazy } from "./lazy.tsx";
import { IconButton, ModelChip, Options } from "./parts.tsx";
import { Rating } from "./rating.tsx";
import { Sources } from "./sources.tsx";
import { Copy, Text } from "./text.tsx";

const ReadAloud = lazy(async () => (await import("./voice.tsx")).ReadAloud);
const canSpeak = () => "speechSynthesis" in window;
const Why = lazy(async () => (await import("./dialogs.ts")).Why);

/** An answer: who gives it, its text so far, how it ended, and what can be done with it. */
export function Answer({ message, isLast }: { message: Shown; isLast: boolean }) {
  const { id, content, status, model, trimmed, citations } = message;
  const writing = status === "streaming";
  return (
    <article
      class="message assistant"
      data-message={id}
      data-status={status}
      tabIndex={-1}
      aria-label={t.chat.roles.assistant}
      style={{ "--hue": String(hue(model ?? "")) }}
    >
      {trimmed && trimmed.messages > 0 && (
        <p class="trimmed">{t.chat.trimmed(trimmed.messages, trimmed.tokens)}</p>
      )}
      <By message={message} />
      {content && (
        <Text text={content} finished={!writing} citations={citations} unsupported={message.unsupported} />
      )}
      {writing && <Waiting message={message} />}
      <Ending message={message} isLast={isLast} />
      {!writing && <Sources of={message} />}
      {!writing && content && <Footer message={message} />}
    </article>
  );
}

/** The chip of who answered, and how it came to be this one. */
function By({ message: { model, model_version, provider, notice } }: { message: Shown }) {
  if (!model) return null;
  const elsewhere = provider && provider !== "local" ? t.chat.answeredBy(provider) : null;
  const version = model_version ? t.chat.version(model_version) : null;
  return (
    <p class="by">
      <ModelChip name={model} note={elsewhere ?? version} />
      {notice && notice.kind !== "queued" && <small>{t.chat.notices[notice.kind](notice as never)}</small>}
    </p>
  );
}

/** Before the first token the caret pulses alone. */
function Waiting({ message: { notice, content } }: { message: Shown }) {
  return (
    <p class={content ? "waiting after" : "waiting"}>
      <span class="caret" role="img" aria-label={t.chat.writing} />
      {notice?.kind === "queued" && <small>{t.chat.queued(notice.position)}</small>}
    </p>
  );
}

/** Why an answer is not whole, and the way on. */
function Ending({ message, isLast }: { message: Shown; isLast: boolean }) {
  const { id, status, error, finish_reason } = message;
  if (status === "error") return <Failed message={message} />;
  const cut = finish_reason === "length";
  if (status !== "stopped" && status !== "interrupted" && !cut) return null;
  return (
    <p class="ending">
      <span>{status === "complete" ? t.chat.cut : t.chat.statuses[status as "stopped"]}</span>
      {error && <small>{error.message}</small>}
      {isLast && (
        <button type="button" onClick={() => void goOn(id)}>
          {t.chat.goOn}
        </button>
      )}
    </p>
  );
}

function Failed({ message }: { message: Shown }) {
  const { error, id, model, request } = message;
  const others = chatModels().filter(({ name, state }) => name !== model && state !== "failed");
  return (
    <div class="notice error" role="alert">
      <p>
        <code>{error?.code}</code> {error?.message}
      </p>
      <div class="row">
        <button type="button" onClick={() => retry(message)}>
          {t.app.retry}
        </button>
        {request === null && others.length > 0 && (
          <select
            aria-label={t.chat.switchModel}
            onChange={(event) => void regenerate(id, event.currentTarget.value)}
          >
            <option value="">{t.chat.switchModel}</option>
            <Options of={others.map(({ name }) => name)} />
          </select>
        )}
      </div>
    </div>
  );
}

function Footer({ message }: { message: Shown }) {
  const { id, content } = message;
  const [why, setWhy] = useState(false);
  return (
    <footer class="actions">
      <Branches message={message} />
      <Copy text={content} label={t.chat.copy} />
      <IconButton icon="again" label={t.chat.regenerate} onClick={() => void regenerate(id)} />
      {canSpeak() && <ReadAloud id={id} />}
      <Rating message={message} />
      <IconButton icon="why" label={t.chat.why} onClick={() => setWhy(true)} />
      <small class="facts">{facts(message)}</small>
      {why && <Why id={id} close={() => setWhy(false)} />}
    </footer>
  );
}

/** `64 tokens · 118 tok/s · first token 41 ms`, as far as it is known; money only where an upstream wants some. */
function facts({ usage, tokens_per_second, ttft_ms, cost_microusd, provider }: Shown): string {
  const paid = provider && provider !== "local";
  return [
    usage && t.chat.tokens(number(usage.completion_tokens), usage.estimated),
    tokens_per_second !== null && t.models.speed(number(Math.round(tokens_per_second))),
    ttft_ms !== null && t.chat.firstToken(milliseconds(ttft_ms)),
    paid && (cost_microusd === null ? t.chat.costUnknown : dollars(cost_microusd)),
  ]
    .filter(Boolean)
    .join(" · ");
}
