/** @jsxImportSource react */
import { useState } from "react";
import { Text, View } from "react-native";
import type { Attachment, Notice } from "../../app/protocol.ts";
import { linkTo } from "./device.ts";
import { Markdown } from "./markdown.tsx";
import { t } from "./messages.en.ts";
import type { Waiting } from "./outbox.ts";
import { Button, LinkButton } from "./parts.tsx";
import { useStyles } from "./theme.ts";

const time = (at: number) =>
  new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

const size = (bytes: number) =>
  bytes < 1000
    ? `${bytes} B`
    : bytes < 1e6
      ? `${Math.round(bytes / 1e3)} kB`
      : `${(bytes / 1e6).toFixed(1)} MB`;

/** One notice; `isOnline`: whether it can be changed. */
export function NoticeCard(props: {
  notice: Notice;
  isOnline: boolean;
  pin: (pinned: boolean) => void;
  edit: () => void;
  remove: () => void;
}) {
  const styles = useStyles();
  const { notice, isOnline } = props;
  const { id, title, body, author, pinned, documents, created_at, updated_at, editable } = notice;
  return (
    <View role="article" aria-label={title} style={[styles.card, pinned && styles.pinnedCard]}>
      <View style={styles.row}>
        <Text role="heading" aria-level={2} style={[styles.title, styles.grow]}>
          {title}
        </Text>
        {pinned && <Text style={styles.badge}>{t.pinned}</Text>}
      </View>
      <Text style={styles.note}>
        {t.by(author, time(created_at))}
        {updated_at > created_at && ` · ${t.edited}`}
      </Text>
      <Markdown text={body} />
      {documents.length > 0 && <Files of={documents} />}
      <View style={styles.row}>
        <LinkButton text={t.ask} label={t.of(t.ask, title)} url={`/#/about/${encodeURIComponent(id)}`} />
        {editable && <Actions {...props} title={title} isOnline={isOnline} />}
      </View>
    </View>
  );
}

function Actions(props: Parameters<typeof NoticeCard>[0] & { title: string }) {
  const [isSure, setSure] = useState(false);
  const { notice, title, isOnline } = props;
  const pin = notice.pinned ? t.unpin : t.pin;
  const remove = isSure ? t.removeSure : t.remove;
  return (
    <>
      <Button
        text={pin}
        label={t.of(pin, title)}
        disabled={!isOnline}
        press={() => props.pin(!notice.pinned)}
      />
      <Button text={t.edit} label={t.of(t.edit, title)} disabled={!isOnline} press={props.edit} />
      <Button
        look="danger"
        text={remove}
        label={t.of(remove, title)}
        disabled={!isOnline}
        press={() => (isSure ? props.remove() : setSure(true))}
      />
    </>
  );
}

function Files({ of }: { of: readonly Attachment[] }) {
  const styles = useStyles();
  return (
    <View role="list" aria-label={t.files} style={styles.block}>
      {of.map(({ id, name, bytes, state, reason }) => (
        <View key={id} role="listitem" style={styles.row}>
          <Text role="link" {...linkTo(`/api/documents/${id}/content`)} style={[styles.text, styles.link]}>
            {t.file(name, size(bytes))}
          </Text>
          {state !== "ready" && (
            <Text style={state === "failed" ? styles.error : styles.note}>{reason ?? t.states[state]}</Text>
          )}
        </View>
      ))}
    </View>
  );
}

/** A notice that the server does not have yet. */
export function WaitingCard(props: { notice: Waiting; isOnline: boolean; discard: () => void }) {
  const styles = useStyles();
  const { title, body, files, refused, written_at } = props.notice;
  const state = refused === null ? (props.isOnline ? t.sending : t.waiting) : t.refused(refused);
  return (
    <View role="article" aria-label={title} style={[styles.card, styles.waitingCard]}>
      <Text role="heading" aria-level={2} style={styles.title}>
        {title}
      </Text>
      <Text style={refused === null ? styles.note : styles.error}>{t.by(state, time(written_at))}</Text>
      <Markdown text={body} />
      {files.map(({ name, content }) => (
        <Text key={name} style={styles.note}>
          {t.file(name, size(content.size))}
        </Text>
      ))}
      <View style={styles.row}>
        <Button text={t.discard} label={t.of(t.discard, title)} look="danger" press={props.discard} />
      </View>
    </View>
  );
}
