import type { ComponentChildren } from "preact";
import { t } from "../messages.en.ts";
import { IconButton } from "./parts.tsx";
import { sidebarOpen } from "./shell.ts";

/** Opens the sidebar, where the screen is too narrow to show it always. */
export const SidebarButton = () => (
  <IconButton
    icon="menu"
    class="narrow-only"
    label={t.app.openSidebar}
    aria-expanded={sidebarOpen.value}
    onClick={() => (sidebarOpen.value = true)}
  />
);

/** A screen beside the chat: its title, what stands beside it, and its content. */
export const ScreenFrame = (props: {
  title: string;
  aside?: ComponentChildren;
  children: ComponentChildren;
}) => (
  // What scrolls must be reachable by keys.
  <div class="screen" tabIndex={0} role="region" aria-label={props.title}>
    <div class="inner">
      <header class="row">
        <SidebarButton />
        <h1>{props.title}</h1>
        <span class="grow" />
        {props.aside}
      </header>
      {props.children}
    </div>
  </div>
);
