import { t } from "../messages.en.ts";
import { type Shown, showBranch } from "../state/chat.ts";
import { IconButton } from "./parts.tsx";

/** `2/3`: which of the messages in this place is shown, and the way to the others. */
export function Branches({ message: { id, siblings } }: { message: Shown }) {
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(id);
  return (
    <span class="branches">
      <IconButton
        icon="left"
        label={t.chat.previousBranch}
        disabled={at <= 0}
        onClick={() => void showBranch(siblings[at - 1])}
      />
      <span>
        {at + 1}/{siblings.length}
      </span>
      <IconButton
        icon="right"
        label={t.chat.nextBranch}
        disabled={at === siblings.length - 1}
        onClick={() => void showBranch(siblings[at + 1])}
      />
    </span>
  );
}
