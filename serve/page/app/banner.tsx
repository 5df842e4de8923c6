import { useEffect, useState } from "preact/hooks";
import { t } from "../messages.en.ts";
import { link } from "../state/chat.ts";
import { linkState, storeLost } from "../state/link.ts";

/** Says when the server cannot be reached, and counts down to the next try. */
export function Banner() {
  const state = linkState.value;
  const [, tick] = useState(0);
  useEffect(() => {
    if (state.state !== "offline") return;
    const timer = setInterval(() => tick((count) => count + 1), 250);
    return () => clearInterval(timer);
  }, [state.state]);
  if (state.state === "outdated")
    return (
      <div class="banner" role="alert">
        <span>{t.app.outdated}</span>
        <button type="button" onClick={() => location.reload()}>
          {t.app.reload}
        </button>
      </div>
    );
  if (state.state !== "offline")
    return storeLost.value ? (
      <div class="banner" role="alert">
        {t.app.storeLost}
      </div>
    ) : null;
  const seconds = Math.max(0, Math.ceil((state.retryAt - Date.now()) / 1000));
  return (
    <div class="banner">
      {/* Said once: a countdown would be read out every second. */}
      <span role="alert" class="hidden">
        {t.app.lost}
      </span>
      <span aria-hidden="true">{seconds > 0 ? t.app.lostRetrying(seconds) : t.app.connecting}</span>
      <button type="button" onClick={() => link.connect()}>
        {t.app.retryNow}
      </button>
    </div>
  );
}
