import { useEffect, useRef, useState } from "preact/hooks";
import type { Citation } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { withCitations } from "../render/citations.ts";
import { highlight } from "../render/highlight.ts";
import { type Block, Blocks } from "../render/markdown.ts";
import { memo } from "./memo.ts";
import { IconButton } from "./parts.tsx";
import { sourceShown } from "./shell.ts";

interface TextProps {
  text: string;
  finished: boolean;
  /** What its marks such as [1] stand for. */
  citations?: readonly Citation[];
  /** Sentences to underline. */
  unsupported?: readonly string[];
}

/** The text of an answer, which may be growing. */
export function Text({ text, finished, citations = [], unsupported }: TextProps) {
  const blocks = useRef<Blocks | null>(null);
  blocks.current ??= new Blocks();
  const [, again] = useState(0);
  const list = blocks.current.update(text, finished);
  useEffect(() => {
    const { heldBack } = blocks.current!;
    // Shown later although nothing follows.
    const timer = heldBack > 0 && setTimeout(() => again((count) => count + 1), heldBack);
    return () => void (timer && clearTimeout(timer));
  });
  return (
    <div class="text" onClick={(event) => showCited(event.target as Element, citations)}>
      {list.map((block, index) => (
        <BlockView key={index} block={block} cited={citations.length > 0} unsupported={unsupported} />
      ))}
    </div>
  );
}

/** The source of the mark that was pressed, if it was one. */
function showCited(target: Element, citations: readonly Citation[]): void {
  const n = target.closest<HTMLElement>("[data-cite]")?.dataset.cite;
  const found = citations.find((one) => one.n === Number(n));
  if (found) sourceShown.value = found;
}

const BlockView = memo(
  ({ block, cited, unsupported }: { block: Block; cited: boolean; unsupported?: readonly string[] }) =>
    block.kind === "code" ? (
      <Code block={block} />
    ) : (
      // render/markdown.ts and render/citations.ts let nothing through but formatting
      <div
        dangerouslySetInnerHTML={{ __html: cited ? withCitations(block.html, unsupported) : block.html }}
      />
    ),
);

type CodeBlock = Extract<Block, { kind: "code" }>;

/** Code is coloured when its fence closes, and scrolls inside itself. */
function Code({ block: { code, language, closed } }: { block: CodeBlock }) {
  const [html, setHtml] = useState<string | null>(null);
  useEffect(() => {
    if (!closed || !language) return;
    let over = false;
    highlight(code, language).then(
      (result) => !over && setHtml(result),
      () => {}, // its languages could not be fetched: plain text is as right
    );
    return () => {
      over = true;
    };
  }, [closed, code, language]);
  return (
    <figure class="code">
      <figcaption>
        <span>{language || t.chat.code}</span>
        <Copy text={code} label={t.chat.copyCode} />
      </figcaption>
      <pre tabIndex={0}>
        {html === null || !closed ? (
          <code>{code}</code>
        ) : (
          // highlight.js escapes what it is given
          <code dangerouslySetInnerHTML={{ __html: html }} />
        )}
      </pre>
    </figure>
  );
}

/** Copies a text, and shows for a moment that it did. */
export function Copy({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await copyText(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return (
    <IconButton
      icon={done ? "check" : "copy"}
      label={done ? t.chat.copied : label}
      onClick={() => void copy()}
    />
  );
}

/** By the clipboard, or by a selection where the origin is not secure. */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => {});
  const field = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
