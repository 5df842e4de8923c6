import type { FeedbackBody, FeedbackReason } from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { Field, Modal } from "./parts.tsx";

/** Asks what was wrong with an answer, and for a better one. */
export function Reason(props: {
  answer: string;
  rate: (what: Pick<FeedbackBody, "reason" | "correction">) => Promise<void>;
  close: () => void;
}) {
  const { answer, rate, close } = props;
  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const correction = String(form.get("correction")).trim();
    await rate({
      reason: form.get("reason") as FeedbackReason | null,
      correction: correction && correction !== answer.trim() ? correction : null,
    });
    close();
  }
  return (
    <Modal title={t.feedback.title} close={close}>
      <form onSubmit={submit}>
        <fieldset class="choices">
          <legend>{t.feedback.reason}</legend>
          {Object.entries(t.feedback.reasons).map(([value, name]) => (
            <label key={value}>
              <input type="radio" name="reason" value={value} /> {name}
            </label>
          ))}
        </fieldset>
        <Field label={t.feedback.correction} hint={t.feedback.correctionHint}>
          <textarea name="correction" rows={5} defaultValue={answer} />
        </Field>
        <div class="row">
          <button type="button" onClick={close}>
            {t.feedback.skip}
          </button>
          <button type="submit" class="primary">
            {t.feedback.send}
          </button>
        </div>
      </form>
    </Modal>
  );
}
