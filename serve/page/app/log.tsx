import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../messages.en.ts";
import { earlier, type Live, loadEarlier, streaming, thread } from "../state/chat.ts";
import { place } from "../state/route.ts";
import { Answer } from "./answer.tsx";
import { Icon } from "./parts.tsx";
import { UserMessage } from "./user_message.tsx";

/** Nearer to the end than this counts as being there, in pixels. */
const near = 48;

/** The messages. The list follows its end while it is there, and stays where a person scrolled it to. */
export function Log() {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const sticks = useRef(true);
  const [atEnd, setAtEnd] = useState(true);
  const toEnd = () => {
    sticks.current = true;
    scroller.current?.scrollTo(0, scroller.current.scrollHeight);
  };
  useLayoutEffect(toEnd, [place.value.id]);
  useEffect(() => {
    const observer = new ResizeObserver(() => sticks.current && toEnd());
    observer.observe(content.current!);
    observer.observe(scroller.current!);
    return () => observer.disconnect();
  }, []);
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = scroller.current!;
    sticks.current = scrollHeight - scrollTop - clientHeight < near;
    setAtEnd(sticks.current);
  };
  return (
    <div class="log-frame">
      <div
        class="log"
        role="log"
        aria-live="off"
        aria-label={t.chat.log}
        aria-busy={streaming() !== null}
        tabIndex={0}
        ref={scroller}
        onScroll={onScroll}
      >
        <div class="messages" ref={content}>
          {earlier.value && <Earlier scroller={() => scroller.current!} />}
          {thread.value.map((one, index) => (
            <Entry key={index} one={one} isLast={index === thread.value.length - 1} />
          ))}
        </div>
      </div>
      {!atEnd && (
        <button type="button" class="jump" onClick={toEnd}>
          <Icon name="below" /> {t.chat.newest}
        </button>
      )}
      <Announcer />
    </div>
  );
}

function Entry({ one, isLast }: { one: Live; isLast: boolean }) {
  const message = one.value;
  return message.role === "assistant" ? (
    <Answer message={message} isLast={isLast} />
  ) : (
    <UserMessage message={message} />
  );
}

/** Loads the page above when it is asked for, and keeps what is read in its place. */
function Earlier({ scroller }: { scroller: () => HTMLElement }) {
  const load = async () => {
    const before = scroller().scrollHeight - scroller().scrollTop;
    await loadEarlier();
    requestAnimationFrame(() => {
      scroller().scrollTop = scroller().scrollHeight - before;
    });
  };
  return (
    <button type="button" class="quiet" onClick={() => void load()}>
      {t.chat.earlier}
    </button>
  );
}

/** Where the first sentence ends that makes a text of some length whole; 0: none does yet. */
function sentenceEnd(text: string): number {
  const least = 120;
  const at = text.slice(least).search(/[.!?]\s/);
  return at < 0 ? 0 : least + at + 2;
}

/** Reads an answer out in groups of whole sentences, not token by token. */
function Announcer() {
  const [said, setSaid] = useState("");
  const position = useRef({ id: "", at: 0 });
  const message = thread.value.at(-1)?.value;
  const text = message?.role === "assistant" ? message.content : "";
  useEffect(() => {
    if (message?.role !== "assistant") return;
    if (position.current.id !== message.id) {
      const isNew = message.status === "streaming";
      position.current = { id: message.id, at: isNew ? 0 : text.length };
    }
    const rest = text.slice(position.current.at);
    const end = message.status === "streaming" ? sentenceEnd(rest) : rest.length;
    if (!end) return;
    position.current.at += end;
    setSaid(rest.slice(0, end));
  }, [message?.id, message?.status, text]);
  return (
    <div class="hidden" aria-live="polite">
      {said}
    </div>
  );
}
