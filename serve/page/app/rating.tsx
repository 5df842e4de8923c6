import { useState } from "preact/hooks";
import type { Feedback, FeedbackBody } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { api } from "../state/api.ts";
import { type Shown, setFeedback } from "../state/chat.ts";
import { attempt } from "../state/history.ts";
import { lazy } from "./lazy.tsx";
import { IconButton } from "./parts.tsx";

const Reason = lazy(async () => (await import("./dialogs.ts")).Reason);

async function rate(body: FeedbackBody): Promise<void> {
  const given = await attempt(() => api<Feedback>("POST", "/api/feedback", body));
  if (given) setFeedback(given);
}

/** Thumbs. A second press takes one back; down asks why, once it counts already. */
export function Rating({ message: { id, content, feedback } }: { message: Shown }) {
  const [asking, setAsking] = useState(false);
  const rating = feedback?.rating ?? 0;
  const press = (wanted: -1 | 1) => {
    void rate({ message_id: id, rating: rating === wanted ? 0 : wanted });
    setAsking(wanted === -1 && rating !== -1);
  };
  return (
    <>
      <IconButton icon="up" label={t.feedback.up} aria-pressed={rating === 1} onClick={() => press(1)} />
      <IconButton
        icon="down"
        label={t.feedback.down}
        aria-pressed={rating === -1}
        onClick={() => press(-1)}
      />
      {asking && (
        <Reason
          answer={content}
          rate={(what) => rate({ message_id: id, rating: -1, ...what })}
          close={() => setAsking(false)}
        />
      )}
    </>
  );
}
