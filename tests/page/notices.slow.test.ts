import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Notice } from "../../serve/app/protocol.ts";
import { NoticeClient } from "../../serve/page/notices/client.ts";
import { launchChromium } from "../browser/chromium.ts";
import { type ChatServer, chatServer } from "../support/chat_server.ts";
import { axeFaults, opened, overflow, pictures, say, see, until } from "./harness.ts";
import { payloads } from "./xss_payloads.ts";

/** The notice board in a browser, over a network that can be lost in the middle of an answer. */
let server: ChatServer;
let browser: Browser | null = null;
let whyNot = "";
/** `lossy`: what is posted arrives, and its answer does not. */
let network: "up" | "down" | "lossy" = "up";
let lost = 0;
const between = createServer((from, to) => {
  if (network === "down") return void from.socket.destroy();
  const { method, headers, url } = from;
  const onward = request(`${server.url}${url}`, { method, headers }, (answer) => {
    if (network === "lossy" && method === "POST") {
      answer.resume().on("end", () => {
        lost++;
        from.socket.destroy();
      });
      return;
    }
    to.writeHead(answer.statusCode!, answer.headers);
    answer.pipe(to);
  });
  onward.on("error", () => from.socket.destroy());
  from.pipe(onward);
});
let url = "";
beforeAll(async () => {
  server = await chatServer("board", "single", { maxModelLen: 1024, blockCount: 512 });
  await new Promise<void>((resolve) => between.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(between.address() as AddressInfo).port}`;
  browser = await launchChromium().catch((error: Error) => {
    whyNot = error.message.split("\n")[0]!;
    console.warn(`Skipped, no browser: ${whyNot}`);
    return null;
  });
});
afterAll(async () => {
  await browser?.close();
  between.close();
  between.closeAllConnections();
  await server.server.close(0);
});

const posted = async (): Promise<Notice[]> =>
  (await server.ask("GET", "/api/notices?limit=200")).body.notices;
const button = (page: Page, name: string | RegExp) => page.getByRole("button", { name });
const card = (page: Page, title: string) => page.getByRole("article", { name: title, exact: true });

async function write(page: Page, title: string, body: string): Promise<void> {
  await button(page, "New notice").click();
  await page.getByLabel("Title").fill(title);
  await page.getByLabel("Text").fill(body);
}

const widths = [1280, 768, 390];
const body = `We open at **nine** on [weekdays](https://example.org/days) and at *ten* on Saturdays.

1. Ring the bell
2. Mind the step

> The garden is closed in winter.

| Day | Hours |
|---|---|
| Monday | 9 to 18 |

\`\`\`
npx kiln serve runs/demo/model
\`\`\``;

describe("the notice board", () => {
  for (const width of widths)
    it(`is posted to, pinned and read at ${width} pixels, light and dark`, async (test) => {
      if (browser === null) return test.skip(whyNot);
      const options = { viewport: { width, height: 800 }, reducedMotion: "reduce", locale: "en-US" } as const;
      const context = await browser.newContext(options);
      const { page, complaints } = await opened(context, url, "notices");
      const [title, evil] = [`Opening hours ${width}`, `Evil ${width}`];
      await write(page, title, body);
      // By keys alone from here: what was written is posted from its title.
      await page.getByLabel("Title").press("Enter");
      await card(page, title).getByText("nine").waitFor();
      await see(page, "(example.org)");
      await write(
        page,
        evil,
        payloads
          .slice(width % 3)
          .filter((_, i) => i % 3 === 0)
          .join("\n\n"),
      );
      await button(page, "Post").click();
      await until(async () => (await posted()).some((one) => one.title === evil));
      // It is the newest, so that all below move down when it is shown.
      await card(page, evil).waitFor();
      await button(page, `Pin: ${title}`).click();
      await until(async () => (await posted())[0]!.title === title);
      await card(page, title).getByText("Pinned", { exact: true }).waitFor();
      await button(page, `Delete: ${evil}`).click();
      await button(page, `Really delete?: ${evil}`).click();
      await card(page, evil).waitFor({ state: "detached" });
      await button(page, "New notice").click();
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        expect(await overflow(page)).toBe(0);
        expect(await axeFaults(page)).toEqual([]);
        await page.screenshot({ path: path.join(pictures, `notices-${width}-${colorScheme}.png`) });
      }
      expect(complaints).toEqual([]);
      await context.close();
    });

  it("is read offline, and what is posted there arrives once though the first answer is lost", async (test) => {
    if (browser === null) return test.skip(whyNot);
    const context = await browser.newContext({ reducedMotion: "reduce", locale: "en-US" });
    await server.ask("POST", "/api/notices", { title: "Read before", body: "" });
    const { page } = await opened(context, url, "notices");
    await see(page, "Read before");
    await page.evaluate(() => navigator.serviceWorker.ready);
    await until(() => page.evaluate(() => navigator.serviceWorker.controller !== null));
    const before = (await posted()).length;
    network = "down";
    await write(page, "Written offline", "on the *train*");
    await button(page, "Post").click();
    await see(page, /^Waiting to be sent/);
    await page.reload();
    await see(page, /^Offline\./);
    await see(page, "Read before");
    await see(page, /^Waiting to be sent/);
    await page.screenshot({ path: path.join(pictures, "notices-offline.png") });
    expect(await axeFaults(page)).toEqual([]);
    network = "lossy";
    await button(page, "Try again").click();
    await until(() => lost > 0);
    expect((await posted()).length).toBe(before + 1);
    await see(page, /^Waiting to be sent/);
    network = "up";
    await button(page, "Try again").click();
    await page.getByText(/^(Waiting to be sent|Sending)/).waitFor({ state: "detached" });
    expect(
      (await posted()).map(({ title }) => title).filter((title) => title === "Written offline"),
    ).toHaveLength(1);
    expect(await card(page, "Written offline").count()).toBe(1);
    await context.close();
  });

  it("is signed in to, edited, and what could not be saved stays in the form", async (test) => {
    if (browser === null) return test.skip(whyNot);
    const team = await chatServer("board-team", "multi", { maxModelLen: 1024, blockCount: 512 });
    const { users } = await team.host.open();
    const { token } = await users.addKey((await users.add("cy", "member")).id);
    const cy = new NoticeClient({ url: team.url, token });
    const { id } = await cy.post({ title: "Picnic", body: "Bring cake." });
    const context = await browser.newContext({ reducedMotion: "reduce", locale: "en-US" });
    const { page } = await opened(context, team.url, "notices");
    await page.getByLabel("Token").fill("kiln-wrong");
    await button(page, "Sign in").click();
    await see(page, /wrong token/);
    await page.getByLabel("Token").fill(token);
    await page.getByLabel("Token").press("Enter");
    await button(page, "Edit: Picnic").click();
    expect(await axeFaults(page)).toEqual([]);
    // Elsewhere it is changed meanwhile.
    await cy.change(id, { body: "Bring tea." });
    await page.getByLabel("Text").fill("Bring cake and tea.");
    await button(page, "Save").click();
    await see(page, /another has changed this notice/);
    await card(page, "Picnic").getByText("Bring tea.").waitFor();
    expect(await page.getByLabel("Text").inputValue()).toBe("Bring cake and tea.");
    await context.setOffline(true);
    await button(page, "Save").click();
    await see(page, /^Offline\./);
    expect(await page.getByLabel("Text").inputValue()).toBe("Bring cake and tea.");
    await context.setOffline(false);
    await button(page, "Save").click();
    await card(page, "Picnic").getByText("Bring cake and tea.").waitFor();
    expect((await cy.get(id)).body).toBe("Bring cake and tea.");
    await context.close();
    await team.server.close(0);
  });

  it("is asked about in the chat, and its files are found", async (test) => {
    if (browser === null) return test.skip(whyNot);
    const context = await browser.newContext({ reducedMotion: "reduce", locale: "en-US" });
    const { page, complaints } = await opened(context, server.url, "notices");
    await write(page, "Canteen", "See the menu of **this week**.");
    const choosing = page.waitForEvent("filechooser");
    await button(page, "Attach files").click();
    const buffer = Buffer.from("The canteen serves lentil soup every Thursday.");
    await (await choosing).setFiles({ name: "menu.txt", mimeType: "text/plain", buffer });
    await see(page, /^Take off menu\.txt/);
    await button(page, "Post").click();
    await page.getByRole("link", { name: /^menu\.txt \(46 B\)/ }).waitFor();
    const notice = (await posted()).find(({ title }) => title === "Canteen")!;
    await until(
      async () => (await posted()).find(({ id }) => id === notice.id)!.documents[0]?.state === "ready",
    );
    const query = "When is there lentil soup?";
    const found = (await server.ask("POST", "/api/retrieve", { query, user_id: "another" })).body;
    expect([found.answered, found.passages[0].name]).toEqual([true, "menu.txt"]);
    await page.getByRole("link", { name: "Ask about this: Canteen" }).click();
    await see(page, "About the notice “Canteen”");
    await say(page, query);
    await see(page, "menu.txt");
    expect(await axeFaults(page)).toEqual([]);
    const [{ notice_id }] = (await server.ask("GET", "/api/conversations")).body.conversations;
    expect(notice_id).toBe(notice.id);
    expect(complaints).toEqual([]);
    await context.close();
  });
});
