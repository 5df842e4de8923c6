import { useState } from "preact/hooks";
import { t } from "../messages.en.ts";
import { needsLogin } from "../state/api.ts";
import { login } from "../state/people.ts";
import { Failure, Field } from "./parts.tsx";

/** Asks for the token that `kiln user add` printed. */
export function Login({ done }: { done: () => void }) {
  const [error, setError] = useState<string | null>(null);
  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const token = new FormData(event.currentTarget as HTMLFormElement).get("token");
    try {
      await login(String(token));
      needsLogin.value = false;
      done();
    } catch (problem) {
      setError((problem as Error).message);
    }
  }
  return (
    <main class="login">
      <form onSubmit={submit}>
        <h1>{t.login.title}</h1>
        <Field label={t.login.token} hint={t.login.hint}>
          <input name="token" type="password" autocomplete="current-password" required />
        </Field>
        <Failure of={error} />
        <button type="submit" class="primary">
          {t.login.enter}
        </button>
      </form>
    </main>
  );
}
