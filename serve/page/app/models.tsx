import { useEffect, useState } from "preact/hooks";
import type {
  AliasResult,
  DeployBody,
  DeployResult,
  ModelInfo,
  ModelList,
  ModelVersion,
  VersionList,
} from "../../app/protocol.ts";
import { t } from "../messages.en.ts";
import { bytes, date, number } from "../render/format.ts";
import { api } from "../state/api.ts";
import { chooseModel } from "../state/chat.ts";
import { attempt, say } from "../state/history.ts";
import { setModels } from "../state/models.ts";
import { go } from "../state/route.ts";
import { modelFacts } from "./model_menu.tsx";
import { Failure, Field, Loaded, Modal, ModelChip, Options, Table } from "./parts.tsx";
import { ScreenFrame } from "./screen.tsx";
import { useLoaded } from "./use_loaded.ts";

/** What can be asked, and the versions of each model in the registry. */
export function Models() {
  const { data, error, load } = useLoaded(() => api<ModelList>("GET", "/api/models"));
  const [name, setName] = useState<string | null>(null);
  useEffect(() => {
    if (data) setModels(data.models, data.default_model);
  }, [data]);
  const chosen = data?.models.find((model) => model.name === name) ?? data?.models[0];
  return (
    <ScreenFrame title={t.models.title}>
      <Loaded data={data} error={error} retry={load}>
        {({ models }) =>
          models.length === 0 ? (
            <div class="notice">
              <p>{t.models.none}</p>
              <p>
                {t.models.noneHow} <code>{t.models.trainCommand}</code>
              </p>
            </div>
          ) : (
            <>
              <ul class="cards-list">
                {models.map((model) => (
                  <Card
                    key={model.name}
                    model={model}
                    chosen={model === chosen}
                    choose={() => setName(model.name)}
                  />
                ))}
              </ul>
              {chosen && <Versions key={chosen.name} model={chosen} changed={load} />}
            </>
          )
        }
      </Loaded>
    </ScreenFrame>
  );
}

function Card({ model, chosen, choose }: { model: ModelInfo; chosen: boolean; choose: () => void }) {
  const { name, state, progress, error, log, chat, provider } = model;
  return (
    <li class={chosen ? "card chosen" : "card"}>
      <button type="button" class="card-main" aria-pressed={chosen} onClick={choose}>
        <ModelChip name={name} note={provider === "local" ? null : t.chat.answeredBy(provider)} />
        <small>{modelFacts(model)}</small>
        <small class={state === "failed" ? "error" : ""}>
          {state === "loading" ? t.models.loadingAt(progress ?? 0) : t.models.states[state]}
        </small>
      </button>
      {state === "loading" && <progress aria-label={t.models.states.loading} value={progress ?? 0} max={1} />}
      {error && (
        <p class="error" role="alert">
          {error}{" "}
          {log && (
            <small>
              {t.models.log}: <code>{log}</code>
            </small>
          )}
        </p>
      )}
      {chat && state !== "failed" && (
        <button
          type="button"
          onClick={() => {
            go("chat");
            chooseModel(name);
          }}
        >
          {t.models.chatWith}
        </button>
      )}
    </li>
  );
}

function Versions({ model, changed }: { model: ModelInfo; changed: () => void }) {
  const { name, aliases } = model;
  const { data, error, load } = useLoaded(() =>
    model.version === null
      ? Promise.resolve({ versions: [] })
      : api<VersionList>("GET", `/api/models/${encodeURIComponent(name)}/versions`),
  );
  const [deploying, setDeploying] = useState<ModelVersion | null>(null);
  const aliasesOf = (version: number) => Object.keys(aliases).filter((alias) => aliases[alias] === version);
  const move = async (alias: string, version: number) => {
    const path = `/api/models/${encodeURIComponent(name)}/aliases/${encodeURIComponent(alias)}`;
    const result = await attempt(() => api<AliasResult>("POST", path, { version }));
    if (!result) return;
    say(t.models.switched(result.name, result.alias, result.version));
    changed();
  };
  return (
    <section>
      <h2>{t.models.versions(name)}</h2>
      <Loaded data={data} error={error} retry={load}>
        {({ versions }) =>
          versions.length === 0 ? (
            <p class="note">{t.models.empty}</p>
          ) : (
            <Table
              caption={t.models.versions(name)}
              head={[...t.models.columns]}
              rows={versions.map((version) => [
                <b>{version.version}</b>,
                <Aliases
                  version={version}
                  held={aliasesOf(version.version)}
                  all={Object.keys(aliases)}
                  move={move}
                />,
                metricsOf(version),
                version.parents.join(", ") || t.models.noParents,
                bytes(version.bytes),
                date(version.created_at),
                <button type="button" onClick={() => setDeploying(version)}>
                  {t.models.deploy}
                </button>,
              ])}
            />
          )
        }
      </Loaded>
      {deploying && <Deploy name={`${name}@${deploying.version}`} close={() => setDeploying(null)} />}
    </section>
  );
}

const metricsOf = ({ metrics }: ModelVersion): string =>
  Object.entries(metrics)
    .map(([name, value]) => `${name} ${number(value)}`)
    .join(", ") || t.models.noMetrics;

function Aliases(props: {
  version: ModelVersion;
  held: string[];
  all: string[];
  move: (alias: string, version: number) => Promise<void>;
}) {
  const { version, held } = props;
  const others = [...new Set([...props.all, "prod"])].filter((alias) => !held.includes(alias));
  return (
    <span class="row">
      {held.map((alias) => (
        <code key={alias}>@{alias}</code>
      ))}
      {others.length > 0 && (
        <select
          aria-label={t.models.switchTo(version.version)}
          value=""
          onChange={(event) => void props.move(event.currentTarget.value, version.version)}
        >
          <option value="">{t.models.move}</option>
          {others.map((alias) => (
            <option key={alias} value={alias}>
              {`@${alias}`}
            </option>
          ))}
        </select>
      )}
    </span>
  );
}

/** Copies a version to an Ollama; it counts as deployed when it gives the same tokens there. */
function Deploy({ name, close }: { name: string; close: () => void }) {
  const [state, setState] = useState<{ busy: boolean; result?: DeployResult; error?: string }>({
    busy: false,
  });
  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const body: DeployBody = {
      model: name,
      ollama_url: String(form.get("url")),
      quantization: form.get("precision") as "f16" | "q8_0",
    };
    setState({ busy: true });
    await api<DeployResult>("POST", "/api/deploy/ollama", body).then(
      (result) => setState({ busy: false, result }),
      (error: Error) => setState({ busy: false, error: error.message }),
    );
  }
  return (
    <Modal title={t.models.deployTitle(name)} close={close}>
      <form onSubmit={submit}>
        <Field label={t.models.deployTo}>
          <input name="url" type="url" required defaultValue="http://127.0.0.1:11434" />
        </Field>
        <Field label={t.models.precision}>
          <select name="precision">
            <Options of={["f16", "q8_0"]} />
          </select>
        </Field>
        <p role="status">
          {state.busy && t.models.deployBusy}
          {state.result && t.models.deployed(state.result)}
        </p>
        <Failure of={state.error} />
        <div class="row end">
          <button type="submit" class="primary" disabled={state.busy}>
            {t.models.deploy}
          </button>
        </div>
      </form>
    </Modal>
  );
}
