import { expect, it } from "vitest";
import { facts } from "./support/registry_facts.ts";
import {
  addVersion,
  ask,
  follower,
  letterOf,
  models,
  registry,
  said,
  switchUnderLoad,
} from "./support/registry_switches.ts";

it("clients notice nothing of switches: each stream is one version's", () => switchUnderLoad(8, 6));

it("a version that cannot take the place leaves the old one in it, and is tried once", async () => {
  await registry.alias("chat", "prod", 2);
  await addVersion({ signature: { ...facts.signature, task: "text-classification" } });
  await registry.alias("chat", "prod", 3);
  await follower.check();
  await follower.check();
  expect(said).toEqual([
    "chat@prod stays on chat@1: chat@3 cannot take its place: it is for text-classification, and who asks expects text-generation",
  ]);
  expect((await ask()).text).toContain(letterOf("chat@1"));
  await registry.alias("chat", "prod", null);
  await follower.check();
  await registry.alias("chat", "prod", 2);
  await follower.check();
  expect(said[1]).toBe("chat@prod is chat@2 now; chat@1 ends its last answers");
  expect([...models].map(([name]) => name).sort()).toEqual(["chat@2", "chat@prod"]);
});

it("what is served is not deleted", async () => {
  await registry.alias("chat", "prod", 2);
  expect(await registry.referrers("chat", 1)).toEqual([`kiln serve (process ${process.pid})`]);
  await follower.check();
  expect(await registry.referrers("chat", 1)).toEqual([]);
  await registry.remove("chat", 1);
  await follower.close();
  expect(await registry.referrers("chat", 2)).toEqual(["the alias prod"]);
});
