import { t } from "../messages.en.ts";
import { Modal } from "./parts.tsx";
import { dialog, isMac } from "./shell.ts";

/** The keys of keyboard.tsx and composer.tsx; Mod is Ctrl, or Command on a Mac. */
const keys: [string, Exclude<keyof typeof t.keys, "modifier">][] = [
  ["Enter", "send"],
  ["Shift Enter", "newline"],
  ["Esc", "stop"],
  ["Mod K", "search"],
  ["Mod Shift O", "newChat"],
  ["Mod /", "list"],
  ["↑", "editLast"],
  ["J", "nextMessage"],
  ["K", "previousMessage"],
  ["R", "regenerate"],
  ["C", "copy"],
];

export function ShortcutsDialog() {
  return (
    <Modal title={t.keys.title} close={() => (dialog.value = null)}>
      <dl class="keys">
        {keys.map(([combination, what]) => (
          <div key={what}>
            <dt>
              {combination.split(" ").map((key) => (
                <kbd key={key}>{key === "Mod" ? t.keys.modifier(isMac) : key}</kbd>
              ))}
            </dt>
            <dd>{t.keys[what]}</dd>
          </div>
        ))}
      </dl>
    </Modal>
  );
}
