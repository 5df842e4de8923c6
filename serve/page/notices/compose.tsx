/** @jsxImportSource react */
import { useState } from "react";
import { Text, View } from "react-native";
import type { Draft } from "./board.ts";
import { pickFiles } from "./device.ts";
import { t } from "./messages.en.ts";
import { Button, Check, Field } from "./parts.tsx";
import { useStyles } from "./theme.ts";

/** The server's limits (serve/app/notices.ts). */
const MOST = { title: 200, body: 20_000 };

/** Where a notice is written, or changed where `before` is given. */
export function Compose(props: {
  before?: { readonly title: string; readonly body: string; readonly pinned: boolean };
  done: (draft: Draft) => void;
  cancel: () => void;
}) {
  const styles = useStyles();
  const { before } = props;
  // Of a notice, what is written here alone: the server takes nothing else.
  const { title = "", body = "", pinned = false } = before ?? {};
  const [draft, setDraft] = useState<Draft>({ title, body, pinned, files: [] });
  const set = (part: Partial<Draft>) => setDraft((now) => ({ ...now, ...part }));
  const add = async () => {
    const files = await pickFiles();
    setDraft((now) => ({ ...now, files: [...now.files, ...files] }));
  };
  const isReady = draft.title.trim() !== "";
  const submit = () => isReady && props.done({ ...draft, title: draft.title.trim() });
  return (
    <View role="form" aria-label={before ? t.editTitle : t.writeTitle} style={styles.card}>
      <Field
        label={t.fields.title}
        text={draft.title}
        set={(title) => set({ title })}
        most={MOST.title}
        focus
        enter={submit}
      />
      <Field
        label={t.fields.body}
        hint={t.fields.bodyHint}
        text={draft.body}
        set={(body) => set({ body })}
        lines={6}
        most={MOST.body}
      />
      {draft.files.map((file, index) => (
        <View key={index} style={styles.row}>
          <Text style={[styles.text, styles.grow]}>{file.name}</Text>
          <Button
            text={t.takeOff(file.name)}
            press={() => set({ files: draft.files.filter((other) => other !== file) })}
          />
        </View>
      ))}
      <View style={styles.row}>
        <Check text={t.pinIt} on={draft.pinned} set={(pinned) => set({ pinned })} />
        <Button text={t.attach} press={() => void add()} />
        <View style={[styles.row, styles.end]}>
          <Button text={t.cancel} press={props.cancel} />
          <Button text={before ? t.save : t.post} look="primary" disabled={!isReady} press={submit} />
        </View>
      </View>
    </View>
  );
}
