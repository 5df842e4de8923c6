import { Component, type ComponentType, h } from "preact";

/** A component that is drawn again only when a property is another one. */
export function memo<Props extends object>(
  Inner: (props: Props) => preact.JSX.Element,
): ComponentType<Props> {
  return class extends Component<Props> {
    override shouldComponentUpdate(next: Props): boolean {
      return Object.entries(next).some(([name, value]) => this.props[name as keyof Props] !== value);
    }

    override render() {
      return h(Inner as ComponentType<Props>, this.props as Props);
    }
  };
}
