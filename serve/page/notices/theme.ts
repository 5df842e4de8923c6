import { useEffect } from "react";
import { StyleSheet, useColorScheme } from "react-native";
import { chosenScheme, showScheme } from "./device.ts";

/** The chat page's colours (../style/base.css), in the notation that phones know. */
const light = {
  ground: "#fcfcfd",
  raised: "#ffffff",
  side: "#f4f4f6",
  line: "#e1e1e7",
  edge: "#8b8b96",
  text: "#1c1c21",
  muted: "#5b5b66",
  accent: "#3f57b8",
  onAccent: "#ffffff",
  danger: "#a3202a",
};
const dark: typeof light = {
  ground: "#121214",
  raised: "#1b1b1f",
  side: "#0c0c0e",
  line: "#2c2c33",
  edge: "#6f6f7b",
  text: "#ececf0",
  muted: "#a2a2ae",
  accent: "#9db2f5",
  onAccent: "#121214",
  danger: "#f2908f",
};

const sheets = { light: sheetOf(light), dark: sheetOf(dark) };

/** The styles for the light or the dark, as was chosen or as the system has it. */
export function useStyles() {
  const system = useColorScheme();
  const scheme = chosenScheme() ?? (system === "dark" ? "dark" : "light");
  useEffect(() => showScheme(chosenScheme()), []);
  return sheets[scheme];
}

export type Styles = ReturnType<typeof sheetOf>;

function sheetOf(colour: typeof light) {
  const text = { color: colour.text, fontSize: 15, lineHeight: 23 } as const;
  const box = { borderWidth: 1, borderColor: colour.line, borderRadius: 10 } as const;
  return {
    ...StyleSheet.create({
      page: { flex: 1, backgroundColor: colour.ground },
      list: { flex: 1 },
      column: { width: "100%", maxWidth: 760, alignSelf: "center", padding: 16, gap: 12 },
      bar: { borderBottomWidth: 1, borderColor: colour.line, backgroundColor: colour.side },
      barRow: {
        ...{ width: "100%", maxWidth: 760, alignSelf: "center", paddingHorizontal: 16, paddingVertical: 8 },
        ...{ flexDirection: "row", alignItems: "center", gap: 12 },
      },
      heading: { ...text, fontSize: 20, fontWeight: "600", flex: 1 },
      card: { ...box, backgroundColor: colour.raised, padding: 16, gap: 10 },
      pinnedCard: { borderLeftWidth: 3, borderLeftColor: colour.accent },
      waitingCard: { borderStyle: "dashed", borderColor: colour.edge },
      row: { flexDirection: "row", flexWrap: "wrap", alignItems: "center", gap: 8 },
      grow: { flex: 1 },
      end: { marginLeft: "auto" },
      title: { ...text, fontSize: 17, lineHeight: 24, fontWeight: "600", flexShrink: 1 },
      note: { ...text, color: colour.muted, fontSize: 13.5, lineHeight: 20 },
      badge: { ...text, fontSize: 12.5, lineHeight: 18, fontWeight: "600", color: colour.accent },
      error: { ...text, color: colour.danger },
      message: { ...box, padding: 12, gap: 8, backgroundColor: colour.side },
      text,
      block: { gap: 8 },
      strong: { fontWeight: "700" },
      emphasis: { fontStyle: "italic" },
      struck: { textDecorationLine: "line-through" },
      link: { color: colour.accent, textDecorationLine: "underline" },
      code: { fontFamily: "monospace", fontSize: 13.5, backgroundColor: colour.side },
      codeBlock: { ...box, padding: 10, backgroundColor: colour.side },
      quote: { borderLeftWidth: 3, borderColor: colour.edge, paddingLeft: 12, gap: 8 },
      item: { flexDirection: "row", gap: 8 },
      rule: { height: 1, backgroundColor: colour.line },
      cell: { flex: 1, minWidth: 0, padding: 6, borderWidth: 1, borderColor: colour.line },
      field: {
        ...{ ...box, ...text, borderColor: colour.edge, backgroundColor: colour.ground },
        ...{ minHeight: 44, paddingHorizontal: 12, paddingVertical: 8 },
      },
      area: { minHeight: 132, textAlignVertical: "top" },
      button: {
        ...{ ...box, backgroundColor: colour.raised, minHeight: 44, paddingHorizontal: 14 },
        ...{ alignItems: "center", justifyContent: "center", flexDirection: "row", gap: 8 },
      },
      hovered: { backgroundColor: colour.side },
      primary: { backgroundColor: colour.accent, borderColor: colour.accent },
      disabled: { opacity: 0.5 },
      label: { ...text, lineHeight: 20 },
      primaryLabel: { color: colour.onAccent },
      dangerLabel: { color: colour.danger },
    }),
    colour,
  };
}
