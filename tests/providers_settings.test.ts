import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { keyOf, readProviders } from "../serve/app/providers/config.ts";
import { costOf, priceAt } from "../serve/app/providers/prices.ts";

const KEY = "sk-canary-1234567890";

describe("prices", () => {
  const price = fc.record({ input: fc.nat(1e8), cached_input: fc.nat(1e8), output: fc.nat(1e8) });
  const usages = fc
    .record({
      prompt_tokens: fc.nat(1e7),
      completion_tokens: fc.nat(1e7),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    })
    .map(({ share, ...usage }) => ({
      ...usage,
      cached_tokens: Math.floor(usage.prompt_tokens * share),
      estimated: false,
    }));
  const from = { valid_from: "1970-01-01" };

  it("are exact to the micro-dollar, a half rounded to the even one (property)", () => {
    fc.assert(
      fc.property(price, usages, (rates, usage) => {
        const cost = BigInt(costOf({ ...from, ...rates }, usage)!);
        const exact =
          BigInt(usage.prompt_tokens - usage.cached_tokens) * BigInt(rates.input) +
          BigInt(usage.cached_tokens) * BigInt(rates.cached_input) +
          BigInt(usage.completion_tokens) * BigInt(rates.output);
        const twice = 2n * (cost * 1_000_000n - exact);
        expect(twice <= 1_000_000n && twice >= -1_000_000n).toBe(true);
        if (twice === 1_000_000n || twice === -1_000_000n) expect(cost % 2n).toBe(0n);
      }),
    );
  });

  it("have these values", () => {
    const of = (input: number, prompt_tokens: number) =>
      costOf(
        { ...from, input, output: 0 },
        { prompt_tokens, completion_tokens: 0, cached_tokens: 0, estimated: false },
      );
    expect([of(500_000, 1), of(500_000, 3), of(500_000, 5), of(500_001, 1)]).toEqual([0, 2, 2, 1]);
    const usage = { prompt_tokens: 1000, completion_tokens: 500, cached_tokens: 400, estimated: false };
    expect(costOf({ ...from, input: 150_000, cached_input: 75_000, output: 600_000 }, usage)).toBe(420);
    expect(costOf(null, usage)).toBe(null);
  });

  it("more tokens never cost less (property)", () => {
    fc.assert(
      fc.property(price, usages, fc.nat(1000), (rates, usage, more) => {
        const other = { ...usage, completion_tokens: usage.completion_tokens + more };
        expect(costOf({ ...from, ...rates }, other)!).toBeGreaterThanOrEqual(
          costOf({ ...from, ...rates }, usage)!,
        );
      }),
    );
  });

  it("hold from their day on", () => {
    const prices = ["2026-03-01", "2025-01-01", "2026-02-01"].map((valid_from, input) => ({
      valid_from,
      input,
      output: 1,
    }));
    const at = (day: string) => priceAt(prices, Date.parse(day))?.valid_from ?? null;
    expect(["2024-12-31T23:59:59Z", "2025-01-01", "2026-02-14", "2026-03-01", "2030-01-01"].map(at)).toEqual([
      ...[null, "2025-01-01", "2026-02-01", "2026-03-01", "2026-03-01"],
    ]);
  });
});

describe("the settings", () => {
  const folder = mkdtempSync(join(tmpdir(), "kiln-providers-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "providers.yaml");
  const read = (text: string) => {
    writeFileSync(file, text);
    return readProviders(file);
  };
  const one = (lines: string, model = "{}") =>
    `providers:\n  cloud:\n    dialect: openai\n${lines}    models:\n      far: ${model}\n`;

  it.each([
    [
      one("    base_ulr: https://a.example\n"),
      ":4: unknown key providers.cloud.base_ulr; did you mean providers.cloud.base_url?",
    ],
    [one("", "{ contxt_length: 5 }"), "did you mean providers.cloud.models.far.context_length?"],
    [
      one("", "{ prices: [{ input: -1, output: 2 }] }"),
      "providers.cloud.models.far.prices.0.input is -1; expected at least 0",
    ],
    [one("", "{ prices: [{ input: 1.5, output: 2 }] }"), "prices.0.input is 1.5; expected a whole number"],
    [
      one("", "{ prices: [{ inptu: 1, output: 2 }] }"),
      "did you mean providers.cloud.models.far.prices.0.input?",
    ],
    [one("    base_url: http://a.example/v1\n"), "use https://, or allow_private: true"],
    [one("    base_url: ftp://a.example\n"), "expected an address with http:// or https://"],
    [one("    base_url: https://user:pass@a.example\n"), "an address holds no key"],
    [one("    key_env: A\n    key_file: b\n"), "give key_env or key_file, not both"],
    [`${one("")}routes:\n  far: { chain: [a] }\n`, "two models would be called far"],
    [`${one("")}routes:\n  auto: { chain: [a], rules: [{ to: a }] }\n`, "a rule needs a condition beside to"],
    ["provider: {}", "did you mean providers?"],
    ["providers: [", ":1: "],
  ])("%j is refused in one line", (text, message) => {
    expect(() => read(text)).toThrow(message);
    expect(() => read(text)).not.toThrow("\n");
  });

  it("those of docs/providers.md are good", () => {
    const page = readFileSync(new URL("../docs/providers.md", import.meta.url), "utf8");
    const { providers, routes } = read(/```yaml\n([\s\S]*?)```/.exec(page)![1]!);
    expect([Object.keys(providers), routes.auto!.chain]).toEqual([
      ["cloud", "home"],
      ["demo", "gpt-4o-mini"],
    ]);
  });

  it("keys come from the environment, or a file that only its owner reads", () => {
    const settings = read(one("    key_file: key\n")).providers.cloud!;
    expect(() => keyOf("cloud", settings)).toThrow("the key file of provider cloud cannot be read");
    writeFileSync(join(folder, "key"), `${KEY}\n`, { mode: 0o644 });
    expect(() => keyOf("cloud", settings)).toThrow(
      "others can read the key file of provider cloud: run chmod 600",
    );
    rmSync(join(folder, "key"));
    writeFileSync(join(folder, "key"), `${KEY}\n`, { mode: 0o600 });
    expect(keyOf("cloud", settings)).toBe(KEY);
    process.env.KILN_TEST_PROVIDER_KEY = KEY;
    expect(keyOf("cloud", read(one("    key_env: KILN_TEST_PROVIDER_KEY\n")).providers.cloud!)).toBe(KEY);
    process.env.KILN_TEST_PROVIDER_KEY = "bad\nheader: yes";
    expect(() => keyOf("cloud", read(one("    key_env: KILN_TEST_PROVIDER_KEY\n")).providers.cloud!)).toThrow(
      "no header can carry",
    );
    delete process.env.KILN_TEST_PROVIDER_KEY;
    expect(keyOf("cloud", read(one("    key_env: KILN_TEST_PROVIDER_KEY\n")).providers.cloud!)).toBe(null);
  });
});
