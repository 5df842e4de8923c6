import { batch, effect } from "@preact/signals";
import type { Settings, SettingsPatch } from "../../app/protocol.ts";
import { api } from "./api.ts";
import { chosenModel, newConsent, newSystem, params, theme } from "./local.ts";

const waitMs = 500;
/** What the server has, as JSON; null: not known yet. */
let known: string | null = null;
let timer: ReturnType<typeof setTimeout> | undefined;

const chosen = (): SettingsPatch => ({
  ...{ theme: theme.value, params: params.value, model: chosenModel.value },
  ...{ system: newSystem.value || null, consent: newConsent.value },
});

/** Takes what a person chose in another browser, and tells the server from then on what is chosen in this one. */
export function takeSettings(settings: Settings): void {
  batch(() => {
    theme.value = settings.theme ?? theme.value;
    params.value = settings.params ?? params.value;
    chosenModel.value = settings.model ?? chosenModel.value;
    newSystem.value = settings.system ?? newSystem.value;
    newConsent.value = settings.consent ?? newConsent.value;
  });
  known = JSON.stringify(chosen());
}

effect(() => {
  const now = chosen();
  const text = JSON.stringify(now);
  clearTimeout(timer);
  if (known === null || text === known) return;
  timer = setTimeout(() => {
    known = text;
    // A server that cannot be reached is told with the next change.
    void api("PATCH", "/api/me/settings", now).catch(() => {});
  }, waitMs);
});
