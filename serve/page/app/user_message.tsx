import { useState } from "preact/hooks";
import { t } from "../messages.en.ts";
import { type Shown, send } from "../state/chat.ts";
import { Branches } from "./branches.tsx";
import { Form, IconButton } from "./parts.tsx";
import { editing, focusComposer } from "./shell.ts";
import { Copy } from "./text.tsx";

/** What a person wrote, as plain text; editing it sends a sibling. */
export function UserMessage({ message }: { message: Shown }) {
  const { id, content, role } = message;
  if (editing.value === id) return <Editor message={message} />;
  return (
    <article class={`message ${role}`} data-message={id} tabIndex={-1} aria-label={t.chat.roles[role]}>
      <div class="bubble">{content}</div>
      <footer class="actions">
        <Branches message={message} />
        <Copy text={content} label={t.chat.copy} />
        {role === "user" && (
          <IconButton icon="edit" label={t.chat.edit} onClick={() => (editing.value = id)} />
        )}
      </footer>
    </article>
  );
}

function Editor({ message }: { message: Shown }) {
  const [text, setText] = useState(message.content);
  const close = () => {
    editing.value = null;
    focusComposer();
  };
  const submit = () => {
    if (text.trim() && send(text, message.parent_id)) close();
  };
  return (
    <Form class="message user editor" submit={submit}>
      <textarea
        aria-label={t.chat.edit}
        value={text}
        rows={Math.min(8, text.split("\n").length + 1)}
        ref={(element) => element?.focus()}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            close();
          }
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            submit();
          }
        }}
      />
      <div class="row">
        <button type="button" onClick={close}>
          {t.app.cancel}
        </button>
        <button type="submit" class="primary" disabled={!text.trim()}>
          {t.chat.send}
        </button>
      </div>
    </Form>
  );
}
