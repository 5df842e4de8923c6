// What a phone gives the board, by Expo's modules. It was never run nor type-checked here: docs/application.md says so.
import AsyncStorage from "@react-native-async-storage/async-storage";
import { randomUUID } from "expo-crypto";
import { getDocumentAsync } from "expo-document-picker";
import { AppState, Linking } from "react-native";
import { NoticeClient } from "./client.ts";
import type { Shelf } from "./shelf.ts";

const server = process.env.EXPO_PUBLIC_KILN_URL;
const TOKEN = "kiln.token";

export const newId = (): string => randomUUID();

export const openClient = async (): Promise<NoticeClient> =>
  new NoticeClient({ url: server, token: await AsyncStorage.getItem(TOKEN) });

export async function signIn(token: string): Promise<void> {
  await new NoticeClient({ url: server, token }).me();
  await AsyncStorage.setItem(TOKEN, token);
}

export const linkTo = (url: string): object => ({
  onPress: () => Linking.openURL(url.startsWith("/") ? `${server}${url}` : url),
});

export const chosenScheme = (): null => null;
export const showScheme = (): void => {};

/** Files are kept as what they are on the phone: `content` has the uri by which React Native's FormData sends them. */
export function openShelf<T>(name: "kept" | "outbox"): Shelf<T> {
  const prefix = `kiln.notices.${name}.`;
  return {
    all: async () => {
      const names = (await AsyncStorage.getAllKeys()).filter((key) => key.startsWith(prefix));
      return (await AsyncStorage.multiGet(names)).map(([, value]) => JSON.parse(value));
    },
    put: (key, value) => AsyncStorage.setItem(prefix + key, JSON.stringify(value)),
    remove: (key) => AsyncStorage.removeItem(prefix + key),
  };
}

export async function pickFiles() {
  const { assets } = await getDocumentAsync({ multiple: true, copyToCacheDirectory: true });
  return (assets ?? []).map(({ name, uri, size = 0, mimeType: type }) => ({
    name,
    content: { uri, name, type, size },
  }));
}

export function onReturn(call: () => void): () => void {
  const { remove } = AppState.addEventListener("change", (state) => state === "active" && call());
  return remove;
}
