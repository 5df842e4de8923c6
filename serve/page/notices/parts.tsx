/** @jsxImportSource react */
import type { ReactNode } from "react";
import { Pressable, Text, TextInput, View } from "react-native";
import { linkTo } from "./device.ts";
import { type Styles, useStyles } from "./theme.ts";

type Look = "plain" | "primary" | "danger";

const labelStyle = (styles: Styles, look: Look) => [
  styles.label,
  look === "primary" && styles.primaryLabel,
  look === "danger" && styles.dangerLabel,
];

/** A button; `label` is what is read out, where its text alone says too little. */
export function Button(props: {
  text: string;
  label?: string;
  look?: Look;
  disabled?: boolean;
  press: () => void;
}) {
  const styles = useStyles();
  const { look = "plain", disabled = false } = props;
  return (
    <Pressable
      role="button"
      aria-label={props.label ?? props.text}
      aria-disabled={disabled}
      disabled={disabled}
      onPress={props.press}
      style={({ hovered }) => [
        styles.button,
        hovered === true && !disabled && styles.hovered,
        look === "primary" && styles.primary,
        disabled && styles.disabled,
      ]}
    >
      <Text style={labelStyle(styles, look)}>{props.text}</Text>
    </Pressable>
  );
}

/** A link that looks like a button. */
export function LinkButton({ text, label, url }: { text: string; label?: string; url: string }) {
  const styles = useStyles();
  return (
    <View role="link" aria-label={label ?? text} {...linkTo(url)} style={styles.button}>
      <Text style={styles.label}>{text}</Text>
    </View>
  );
}

/** A choice of yes or no. */
export function Check(props: { text: string; on: boolean; set: (on: boolean) => void }) {
  const styles = useStyles();
  return (
    <Pressable
      role="checkbox"
      aria-checked={props.on}
      aria-label={props.text}
      onPress={() => props.set(!props.on)}
      style={styles.button}
    >
      <Text style={styles.label}>{props.on ? "☑" : "☐"}</Text>
      <Text style={styles.label}>{props.text}</Text>
    </Pressable>
  );
}

/** A field to write into, one line or more. */
export function Field(props: {
  label: string;
  hint?: string;
  text: string;
  set: (text: string) => void;
  lines?: number;
  most?: number;
  secret?: boolean;
  focus?: boolean;
  enter?: () => void;
}) {
  const styles = useStyles();
  const isLong = (props.lines ?? 1) > 1;
  return (
    <TextInput
      aria-label={props.label}
      placeholder={props.hint ?? props.label}
      placeholderTextColor={styles.colour.muted}
      value={props.text}
      onChangeText={props.set}
      multiline={isLong}
      numberOfLines={props.lines}
      maxLength={props.most}
      secureTextEntry={props.secret}
      autoFocus={props.focus}
      onSubmitEditing={isLong ? undefined : props.enter}
      style={[styles.field, isLong && styles.area]}
    />
  );
}

/** Something that is said above the board. */
export function Message({ children, isError = false }: { children: ReactNode; isError?: boolean }) {
  const styles = useStyles();
  return (
    <View style={styles.message} role={isError ? "alert" : "status"}>
      {children}
    </View>
  );
}
