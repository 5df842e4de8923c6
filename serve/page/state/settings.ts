import { batch, effect } from "@preact/signals";
import type { Settings, SettingsPatch } from "../../app/protocol.ts";
import { api } from "./api.ts";
import { chosenModel, newConsent, newSystem, params, theme, unsent } from "./local.ts";

const waitMs = 500;
/** What the server has, as JSON; null: not known yet. */
let known: string | null = null;
let timer: ReturnType<typeof setTimeout> | undefined;

const chosen = (): SettingsPatch => ({
  ...{ theme: theme.value, params: params.value, model: chosenModel.value },
  ...{ system: newSystem.value || null, consent: newConsent.value },
});

/** Takes what a person chose in another browser, unless this one has not told the server yet what was chosen here. */
export function takeSettings(settings: Settings): void {
  if (unsent.peek()) {
    known = "";
    tell();
    return;
  }
  batch(() => {
    theme.value = settings.theme ?? theme.value;
    params.value = settings.params ?? params.value;
    chosenModel.value = settings.model ?? chosenModel.value;
    newSystem.value = settings.system ?? newSystem.value;
    newConsent.value = settings.consent ?? newConsent.value;
  });
  known = JSON.stringify(chosen());
}

function tell(): void {
  const now = chosen();
  const text = JSON.stringify(now);
  clearTimeout(timer);
  if (known === null || text === known) return;
  unsent.value = true;
  timer = setTimeout(async () => {
    try {
      await api("PATCH", "/api/me/settings", now);
    } catch {
      return; // a server that cannot be reached is told with the next change, or the next visit
    }
    known = text;
    unsent.value = JSON.stringify(chosen()) !== text;
  }, waitMs);
}
effect(tell);
