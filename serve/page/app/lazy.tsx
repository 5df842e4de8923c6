import { type ComponentType, h } from "preact";
import { useEffect, useState } from "preact/hooks";
import { t } from "../messages.en.ts";

/**
 * A component that is fetched when it is first shown, so that the page opens without it. `frame`: something stands there before.
 * Escape takes back what is not there yet where it can be closed.
 */
export function lazy<Props extends object>(load: () => Promise<ComponentType<Props>>, frame = false) {
  let content: ComponentType<Props> | null = null;
  return function Lazy(props: Props) {
    const [failed, setFailed] = useState(false);
    const [, drawAgain] = useState(false);
    useEffect(() => {
      if (content) return;
      const { close } = props as { close?: () => void };
      const onKey = (event: KeyboardEvent) => !content && event.key === "Escape" && close?.();
      document.addEventListener("keydown", onKey);
      load().then(
        (loaded) => {
          content = loaded;
          drawAgain(true);
        },
        () => setFailed(true),
      );
      return () => document.removeEventListener("keydown", onKey);
    }, []);
    if (failed)
      return (
        <div class="notice error" role="alert">
          {t.app.unreachable}
        </div>
      );
    if (content) return h(content, props);
    return frame ? <div class="screen skeleton" role="status" aria-label={t.app.loading} /> : null;
  };
}
