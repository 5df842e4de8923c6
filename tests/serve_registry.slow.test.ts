import { it } from "vitest";
import { switchUnderLoad } from "./support/registry_switches.ts";

it("64 clients notice nothing of 100 switches: each stream is one version's", () => switchUnderLoad(64, 100));
