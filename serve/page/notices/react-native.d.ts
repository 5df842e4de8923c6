/** What the board uses of React Native, whose own types would bring a phone's tools along. `react-native-web` is it in a browser. */
declare module "react-native" {
  import type { FC, ReactElement, ReactNode } from "react";

  type Style = Record<string, unknown>;
  type Styling = Style | readonly (Style | false | null | undefined)[];

  interface Shared {
    role?: string;
    style?: Styling | undefined;
    children?: ReactNode;
    tabIndex?: 0 | -1;
    "aria-label"?: string;
    "aria-level"?: number;
    "aria-checked"?: boolean;
    "aria-disabled"?: boolean;
  }

  export const View: FC<Shared>;
  export const Text: FC<Shared>;
  export const ScrollView: FC<Shared & { horizontal?: boolean }>;
  export const Pressable: FC<
    Omit<Shared, "style"> & {
      onPress: () => void;
      disabled?: boolean;
      style?: Styling | ((state: { hovered?: boolean; pressed: boolean }) => Styling);
    }
  >;
  export const TextInput: FC<
    Shared & {
      value: string;
      onChangeText: (text: string) => void;
      onSubmitEditing?: (() => void) | undefined;
      placeholder?: string;
      placeholderTextColor?: string;
      multiline?: boolean;
      numberOfLines?: number | undefined;
      maxLength?: number | undefined;
      secureTextEntry?: boolean | undefined;
      autoFocus?: boolean | undefined;
    }
  >;

  interface FlatListProps<T> extends Shared {
    data: readonly T[];
    keyExtractor: (item: T) => string;
    renderItem: (of: { item: T }) => ReactElement;
    ListHeaderComponent?: ReactElement | null;
    ListFooterComponent?: ReactElement | null;
    ref?: { current: FlatList | null };
  }
  export interface FlatList {
    scrollToOffset(to: { offset: number; animated: boolean }): void;
  }
  export const FlatList: <T>(props: FlatListProps<T>) => ReactElement;

  export const StyleSheet: {
    create<T extends Record<string, Style>>(styles: T): { [name in keyof T]: Style };
  };
  export function useColorScheme(): "light" | "dark" | null;
}
