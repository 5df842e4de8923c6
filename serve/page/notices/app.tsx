/** @jsxImportSource react */
import { useRef, useState } from "react";
import { FlatList, Text, View } from "react-native";
import type { Notice } from "../../app/protocol.ts";
import { type Draft, useBoard } from "./board.ts";
import { NoticeCard, WaitingCard } from "./card.tsx";
import { Compose } from "./compose.tsx";
import { t } from "./messages.en.ts";
import { Button, Field, LinkButton, Message } from "./parts.tsx";
import { useStyles } from "./theme.ts";

/** The notice board. */
export function App() {
  const styles = useStyles();
  const at = useBoard();
  const { kept, isOnline, needsLogin } = at.board;
  /** What is written: a new notice, or one to be changed. */
  const [writing, setWriting] = useState<Notice | "new" | null>(null);
  const list = useRef<FlatList>(null);
  const write = (what: Notice | "new") => {
    setWriting(what);
    list.current?.scrollToOffset({ offset: 0, animated: false });
  };
  if (needsLogin) return <SignIn enter={at.signIn} said={at.board.said} />;
  const done = async ({ files, ...text }: Draft) => {
    if (writing === "new") {
      setWriting(null);
      return at.post({ files, ...text });
    }
    const { id, updated_at } = writing as Notice;
    const isKept = await at.attempt(async (client) => {
      await client.change(id, { ...text, updated_at }).catch(async (error) => {
        // The form stays, and what it is saved over next is what another has written.
        if (error.status === 409) setWriting(await client.get(id));
        throw error;
      });
      for (const { name, content } of files) await client.attach(id, name, content);
    });
    if (isKept) setWriting(null);
  };
  return (
    <View style={styles.page}>
      <View role="banner" style={styles.bar}>
        <View style={styles.barRow}>
          <Text role="heading" aria-level={1} style={styles.heading}>
            {t.title}
          </Text>
          <LinkButton text={t.chat} url="/" />
          <Button text={t.write} look="primary" disabled={kept === null} press={() => write("new")} />
        </View>
      </View>
      <FlatList
        ref={list}
        role="main"
        style={styles.list}
        data={kept?.notices ?? []}
        keyExtractor={({ id }) => id}
        ListHeaderComponent={
          <Top at={at} writing={writing} done={(draft) => void done(draft)} cancel={() => setWriting(null)} />
        }
        renderItem={({ item }) => (
          <View style={[styles.column, { paddingVertical: 6 }]}>
            <NoticeCard
              notice={item}
              isOnline={isOnline}
              pin={(pinned) => void at.attempt((client) => client.change(item.id, { pinned }))}
              edit={() => write(item)}
              remove={() => void at.attempt((client) => client.remove(item.id))}
            />
          </View>
        )}
        ListFooterComponent={
          kept?.more ? (
            <View style={styles.column}>
              <Button text={t.more} disabled={!isOnline} press={() => void at.more()} />
            </View>
          ) : null
        }
      />
    </View>
  );
}

/** What stands above the notices: how things are, what is written, and what waits to be sent. */
function Top(props: {
  at: ReturnType<typeof useBoard>;
  writing: Notice | "new" | null;
  done: (draft: Draft) => void;
  cancel: () => void;
}) {
  const styles = useStyles();
  const { writing, done, cancel } = props;
  const { board, refresh, discard } = props.at;
  const { kept, waiting, isOnline, said } = board;
  return (
    <View style={styles.column}>
      {!isOnline && (
        <Message>
          <Text style={styles.text}>{kept === null ? t.unreachable : t.offline}</Text>
          <View style={styles.row}>
            <Button text={t.retry} press={() => void refresh()} />
          </View>
        </Message>
      )}
      {said !== null && (
        <Message isError>
          <Text style={styles.error}>{said}</Text>
        </Message>
      )}
      {writing === "new" && <Compose key="new" done={done} cancel={cancel} />}
      {writing !== null && writing !== "new" && (
        <Compose key={writing.id} before={writing} done={done} cancel={cancel} />
      )}
      {waiting.map((notice) => (
        <WaitingCard
          key={notice.request_id}
          notice={notice}
          isOnline={isOnline}
          discard={() => void discard(notice.request_id)}
        />
      ))}
      {kept === null && isOnline && (
        <Text role="status" style={styles.note}>
          {t.loading}
        </Text>
      )}
      {kept?.notices.length === 0 && waiting.length === 0 && <Text style={styles.note}>{t.empty}</Text>}
    </View>
  );
}

function SignIn({ enter, said }: { enter: (token: string) => void; said: string | null }) {
  const styles = useStyles();
  const [token, setToken] = useState("");
  const { title, token: label, hint, enter: name } = t.signIn;
  const submit = () => token.trim() !== "" && enter(token.trim());
  return (
    <View role="main" style={[styles.page, { justifyContent: "center" }]}>
      <View style={[styles.column, { maxWidth: 420 }]}>
        <Text role="heading" aria-level={1} style={styles.heading}>
          {title}
        </Text>
        <Field label={label} hint={hint} text={token} set={setToken} secret focus enter={submit} />
        {said !== null && (
          <Text role="alert" style={styles.error}>
            {said}
          </Text>
        )}
        <Button text={name} look="primary" press={submit} />
      </View>
    </View>
  );
}
