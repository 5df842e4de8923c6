import { describe, expect, it } from "vitest";
import { demo } from "./fake_history.ts";
import { pageTests, say, see, until } from "./harness.ts";
import { analytics, statistics } from "./reports.ts";
import { payloads } from "./xss_payloads.ts";

const { state, open } = pageTests();

describe("texts that would run or fetch something", () => {
  it("are a hundred", () => expect(new Set(payloads).size).toBeGreaterThanOrEqual(100));

  it("do neither as messages, titles, names of models, or what a report says", async (test) => {
    const { server } = state;
    const { reports } = server;
    const conversation = server.addConversation({ title: payloads[0], system: payloads[1] });
    for (const text of payloads)
      server.addTurn(conversation, text, `${text}\n\n> ${text}\n\n- ${text}`, {
        ...{ model: text, provider: text, model_version: text },
        error: { code: text, message: text, retryable: true },
      });
    for (const title of payloads) server.addConversation({ title });
    server.models = payloads.map((text, i) => ({
      ...{ ...demo, name: text, provider: text, examples: [text], aliases: { [text]: 1 } },
      ...(i % 2 && { state: "failed" as const, error: text, log: text }),
    }));
    const many = <T extends object>(row: (text: string) => T): T[] => payloads.map(row);
    const wrap = (path: string, change: (found: never) => unknown) => {
      const before = reports[path];
      reports[path] = (body, params) => change(before(body, params) as never);
    };
    wrap("GET /api/models/:name/versions", ({ versions: [one] }: { versions: object[] }) => ({
      versions: many((text) => ({ ...one, parents: [text], metrics: { [text]: 1 } })),
    }));
    wrap("GET /api/experiments", ({ experiments: [one] }: { experiments: { arms: object[] }[] }) => ({
      experiments: many((text) => ({
        ...{ ...one, id: text, name: text, decision: text },
        arms: one.arms.map((arm) => ({ ...arm, name: text })),
      })),
    }));
    reports["GET /api/analytics"] = () => ({
      ...{ ...analytics, models: payloads },
      messages: many((model) => ({ day: "2026-11-20", model, count: 1 })),
    });
    reports["GET /api/data/statistics"] = () => ({
      ...{ ...statistics, languages: Object.fromEntries(payloads.map((text) => [text, 1])) },
    });
    wrap("POST /api/data/preview", (found: object) => ({
      ...{ ...found, dropped: Object.fromEntries(payloads.map((text) => [text, 1])) },
      changed: many((text) => ({
        conversation_id: text,
        role: text,
        before: text,
        after: text,
        changes: [text],
      })),
      dropped_rows: many((text) => ({ conversation_id: text, reason: text, detail: text, text })),
    }));
    reports["GET /api/keys"] = () => ({
      keys: many((text) => ({ id: text, prefix: text, scopes: [text], created_at: 0, last_used_at: null })),
    });
    reports["GET /api/providers"] = () => ({
      providers: many((text) => ({
        ...{ name: text, base_url: text, models: [text] },
        ...{ dialect: "openai", key: "set", circuit: "open" },
      })),
    });

    const { page, complaints } = await open(test, `#/chat/${conversation.id}`);
    await until(async () => (await page.locator(".message").count()) === 50);
    for (let shown = 50; shown < 2 * payloads.length; shown += 50) {
      await page.getByRole("button", { name: "Show earlier messages" }).click();
      await until(
        async () => (await page.locator(".message").count()) >= Math.min(shown + 50, 2 * payloads.length),
      );
    }
    // Every link was made by the page: it opens apart, and says nothing of where it was.
    const links = await page
      .locator(".text a")
      .evaluateAll((all) =>
        all.map(
          (a) => `${a.getAttribute("rel")} ${/^https?:|^mailto:/.test(a.getAttribute("href") ?? "https:")}`,
        ),
      );
    expect(links.length).toBeGreaterThan(50);
    expect(new Set(links)).toEqual(new Set(["noopener noreferrer true"]));
    expect(
      await page.locator(".text").locator("img, script, iframe, object, form, style, svg:not(.icon)").count(),
    ).toBe(0);
    await page.getByRole("button", { name: "Why these words" }).last().click();
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox").fill("alert");
    await until(async () => (await page.getByRole("option").count()) > 50);
    await page.keyboard.press("Escape");
    for (const screen of ["models", "data", "experiments", "analytics", "settings", "compare"]) {
      await page.goto(`${server.url}/#/${screen}`);
      await page.locator(".screen h1").waitFor();
      if (screen === "data") await page.getByRole("button", { name: "Preview" }).click();
      await page.waitForTimeout(500);
    }
    expect(complaints).toEqual([]);
  }, 300_000);

  it("do neither as they are typed, streamed and refused", async (test) => {
    const { server } = state;
    server.reply = (text) =>
      text.startsWith("refuse")
        ? { refuse: { code: text, message: text, retryable: false } }
        : {
            pieces: payloads.join("\n\n").match(/[\s\S]{1,40}/g)!,
            notice: { kind: "fallback", from: text, to: text, reason: text },
          };
    const { page, complaints } = await open(test);
    await say(page, `<img src=x onerror=alert(1)>${payloads[4]}`);
    await see(page, /first token/);
    await say(page, `refuse ${payloads[5]}`);
    await see(page, "Try again");
    expect(complaints).toEqual([]);
  });
});
