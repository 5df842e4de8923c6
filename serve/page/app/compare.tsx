import { useEffect, useState } from "preact/hooks";
import type { CompareBody, CompareResult, PreferenceBody, PreferenceResult } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { api } from "../state/api.ts";
import { follow, type Live, unfollow } from "../state/chat.ts";
import { attempt } from "../state/history.ts";
import { linkState } from "../state/link.ts";
import { newConsent, params } from "../state/local.ts";
import { chatModels } from "../state/models.ts";
import { Failure, Form, ModelChip, Switch } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { Text } from "./text.tsx";

interface Round {
  prompt: string;
  result: CompareResult;
  answers: Live[];
  blind: boolean;
}

/** One prompt to 2 to 4 models with the same parameters, and which answer is better. */
export function Compare() {
  const names = chatModels().map(({ name }) => name);
  const [chosen, setChosen] = useState<string[]>([]);
  const [blind, setBlind] = useState(false);
  const [round, setRound] = useState<Round | null>(null);
  const picked = chosen.length > 0 ? chosen : names.slice(0, 2);
  useEffect(() => () => round?.result && unfollow(round.result.conversation_id), [round]);
  async function ask(text: string) {
    const body: CompareBody = {
      models: picked,
      text,
      params: params.value,
      blind,
      consent: newConsent.value,
    };
    const result = await attempt(() => api<CompareResult>("POST", "/api/compare", body));
    if (result)
      setRound({ prompt: text, result, blind, answers: follow(result.conversation_id, result.answers) });
  }
  if (names.length < 2)
    return (
      <ScreenFrame title={t.screens.compare}>
        <p class="notice">{t.compare.tooFew}</p>
      </ScreenFrame>
    );
  return (
    <ScreenFrame title={t.screens.compare}>
      <fieldset class="choices">
        <legend>{t.compare.models}</legend>
        {names.map((name) => (
          <label key={name}>
            <input
              type="checkbox"
              checked={picked.includes(name)}
              disabled={!picked.includes(name) && picked.length >= 4}
              onChange={() =>
                setChosen(picked.includes(name) ? picked.filter((one) => one !== name) : [...picked, name])
              }
            />
            {name}
          </label>
        ))}
      </fieldset>
      <Switch label={t.compare.blind} hint={t.compare.blindHint} on={blind} set={setBlind} />
      <Prompt ready={picked.length >= 2 && linkState.value.state === "online"} ask={ask} />
      {round && <Answers key={round.result.conversation_id} round={round} />}
    </ScreenFrame>
  );
}

function Prompt({ ready, ask }: { ready: boolean; ask: (text: string) => Promise<void> }) {
  const [text, setText] = useState("");
  return (
    <Form class="prompt" submit={() => ask(text.trim())}>
      <textarea
        rows={3}
        aria-label={t.compare.prompt}
        placeholder={t.compare.prompt}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <div class="row end">
        <button type="submit" class="primary" disabled={!ready || !text.trim()}>
          {t.compare.ask}
        </button>
      </div>
    </Form>
  );
}

function Answers({ round: { prompt, result, answers, blind } }: { round: Round }) {
  const [models, setModels] = useState<Record<string, string> | null>(null);
  const done = answers.every((one) => one.value.status !== "streaming");
  async function vote(outcome: PreferenceBody["outcome"], chosen?: string) {
    const body: PreferenceBody = {
      prompt_message_id: result.user_message_id,
      message_ids: result.answers.map(({ message_id }) => message_id),
      outcome,
      ...(chosen && { chosen_message_id: chosen }),
      source: "arena",
    };
    const told = await attempt(() => api<PreferenceResult>("POST", "/api/preferences", body));
    if (told) setModels(told.models);
  }
  return (
    <section>
      <h2>{prompt}</h2>
      <div class="columns">
        {answers.map((one, index) => (
          <Column
            key={index}
            one={one}
            name={models?.[one.value.id] ?? (blind ? t.compare.hidden(index + 1) : (one.value.model ?? ""))}
            choose={done && !models ? () => void vote("chosen", one.value.id) : null}
          />
        ))}
      </div>
      {models ? (
        <p role="status">{t.compare.thanks}</p>
      ) : (
        <div class="row">
          <button type="button" disabled={!done} onClick={() => void vote("tie")}>
            {t.compare.tie}
          </button>
          <button type="button" disabled={!done} onClick={() => void vote("both_bad")}>
            {t.compare.bothBad}
          </button>
        </div>
      )}
    </section>
  );
}

function Column({ one, name, choose }: { one: Live; name: string; choose: (() => void) | null }) {
  const { content, status, error } = one.value;
  const writing = status === "streaming";
  return (
    <article class="column-answer" aria-busy={writing}>
      <ModelChip name={name} />
      <Text text={content} finished={!writing} />
      {writing && <span class="caret" role="img" aria-label={t.chat.writing} />}
      <Failure of={error?.message} />
      <button type="button" disabled={!choose} onClick={() => choose?.()}>
        {t.compare.better(name)}
      </button>
    </article>
  );
}
