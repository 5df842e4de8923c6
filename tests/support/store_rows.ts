import { newId, type Store } from "../../serve/store/index.ts";

export async function addUser(store: Store, name: string = newId()): Promise<string> {
  const id = newId();
  await store.run("INSERT INTO user_account (id, name, role, created_at) VALUES (?, ?, 'member', ?)", [
    id,
    name,
    1,
  ]);
  return id;
}

export async function addConversation(store: Store, user: string, id: string = newId()): Promise<string> {
  await store.run("INSERT INTO conversation (id, user_id, created_at, updated_at) VALUES (?, ?, 1, 1)", [
    id,
    user,
  ]);
  return id;
}

export async function addMessage(
  store: Store,
  user: string,
  conversation: string,
  content: string,
  {
    id = newId(),
    parent = null,
    status = "complete",
  }: { id?: string; parent?: string | null; status?: string } = {},
): Promise<string> {
  await store.run(
    "INSERT INTO message (id, conversation_id, user_id, parent_id, role, content, status, ttft_ms, created_at) VALUES (?, ?, ?, ?, 'user', ?, ?, ?, ?)",
    [id, conversation, user, parent, content, status, content.length / 3, Date.now()],
  );
  return id;
}
