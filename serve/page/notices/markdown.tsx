/** @jsxImportSource react */
import { lexer, type Token, type Tokens } from "marked";
import { Fragment, type ReactNode, useMemo } from "react";
import { ScrollView, Text, View } from "react-native";
import { linkTo } from "./device.ts";
import { type Styles, useStyles } from "./theme.ts";

/** A text in Markdown as components: nothing of it is ever HTML, and nothing is fetched because it says so. */
export function Markdown({ text }: { text: string }) {
  const styles = useStyles();
  const tokens = useMemo(() => parsed(text), [text]);
  return <View style={styles.block}>{blocks(tokens, styles)}</View>;
}

/** Levels of quotes and lists within each other that are shown as such: ten thousand would break the page for all. */
const MOST_DEEP = 20;

function parsed(text: string): readonly Token[] {
  const plain: Tokens.Text = { type: "text", raw: text, text };
  try {
    const tokens = lexer(text, { gfm: true, breaks: true });
    return isDeep(tokens, MOST_DEEP) ? [plain] : tokens;
  } catch {
    // So deep that it cannot be read.
    return [plain];
  }
}

const isDeep = (tokens: readonly Token[], left: number): boolean =>
  left === 0 || tokens.some((token) => isDeep(inside(token) ?? [], left - 1));

const blocks = (tokens: readonly Token[], styles: Styles): ReactNode =>
  tokens.map((token, index) => <Fragment key={index}>{block(token, styles)}</Fragment>);

function block(token: Token, styles: Styles): ReactNode {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      // Below the notice's own title.
      return (
        <Text
          role="heading"
          aria-level={Math.min(6, (token as Tokens.Heading).depth + 2)}
          style={styles.title}
        >
          {inline(inside(token), styles)}
        </Text>
      );
    case "code":
      return (
        <ScrollView horizontal style={styles.codeBlock} tabIndex={0}>
          <Text style={[styles.text, styles.code]}>{(token as Tokens.Code).text}</Text>
        </ScrollView>
      );
    case "blockquote":
      return <View style={styles.quote}>{blocks(inside(token) ?? [], styles)}</View>;
    case "list":
      return list(token as Tokens.List, styles);
    case "table":
      return table(token as Tokens.Table, styles);
    case "hr":
      return <View style={styles.rule} />;
    default:
      return <Text style={styles.text}>{inline([token], styles)}</Text>;
  }
}

function list({ ordered, start, items }: Tokens.List, styles: Styles): ReactNode {
  return (
    <View role="list" style={styles.block}>
      {items.map((item, index) => (
        <View key={index} role="listitem" style={styles.item}>
          <Text style={styles.text}>
            {item.task ? (item.checked ? "☑" : "☐") : ordered ? `${(start || 1) + index}.` : "•"}
          </Text>
          <View style={[styles.block, styles.grow]}>{blocks(item.tokens, styles)}</View>
        </View>
      ))}
    </View>
  );
}

function table({ header, rows }: Tokens.Table, styles: Styles): ReactNode {
  return (
    <View>
      {[header, ...rows].map((row, index) => (
        <View key={index} style={{ flexDirection: "row" }}>
          {row.map((cell, column) => (
            <Text key={column} style={[styles.text, styles.cell, index === 0 && styles.strong]}>
              {inline(cell.tokens, styles)}
            </Text>
          ))}
        </View>
      ))}
    </View>
  );
}

/** What a token holds. */
const inside = (token: Token): readonly Token[] | undefined =>
  token.type === "list" ? (token as Tokens.List).items : "tokens" in token ? token.tokens : undefined;

const inline = (tokens: readonly Token[] | undefined, styles: Styles): ReactNode =>
  tokens?.map((token, index) => <Fragment key={index}>{span(token, styles)}</Fragment>);

function span(token: Token, styles: Styles): ReactNode {
  const within = () => inline(inside(token), styles);
  switch (token.type) {
    case "strong":
      return <Text style={styles.strong}>{within()}</Text>;
    case "em":
      return <Text style={styles.emphasis}>{within()}</Text>;
    case "del":
      return <Text style={styles.struck}>{within()}</Text>;
    case "codespan":
      return <Text style={styles.code}>{(token as Tokens.Codespan).text}</Text>;
    case "checkbox":
      return null;
    case "br":
      return "\n";
    case "link":
      return <Link href={(token as Tokens.Link).href}>{within()}</Link>;
    case "image":
      return <Link href={(token as Tokens.Image).href}>{(token as Tokens.Image).text}</Link>;
    default:
      // Paragraphs and texts hold others; HTML is text here.
      return inside(token) ? within() : "text" in token ? token.text : token.raw;
  }
}

/** A link that says where it leads; of an address that is no page's, its text alone. */
function Link({ href, children }: { href: string; children: ReactNode }) {
  const styles = useStyles();
  const url = URL.canParse(href) ? new URL(href) : null;
  if (url === null || !/^(?:https?|mailto):$/.test(url.protocol)) return children;
  return (
    <>
      <Text role="link" {...linkTo(url.href)} style={styles.link}>
        {children}
      </Text>
      {url.host && <Text style={styles.note}> ({url.host})</Text>}
    </>
  );
}
