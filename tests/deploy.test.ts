import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { send, startServer } from "./serve_fake.ts";

const read = (name: string) => readFileSync(`docs/deploy/${name}`, "utf8");

it("each answer names the beginning of its prompt, or the key that its request carried", async () => {
  const { server, url } = await startServer({ maxModelLen: 256 });
  const ids = Array.from({ length: 100 }, (_, i) => 5 + i);
  const keyOf = async (prompt: number[], fields: object = {}, headers: Record<string, string> = {}) => {
    const json = { model: "tiny/fake", prompt, max_tokens: 2, ...fields };
    return (await send(`${url}/v1/completions`, { json, headers })).headers.get("x-kiln-prefix-key");
  };
  const key = await keyOf(ids);
  expect(key).toMatch(/^[0-9a-f]{16}$/);
  expect(await keyOf([...ids.slice(0, 64), 7, 7])).toBe(key);
  expect(await keyOf(ids, { stream: true })).toBe(key);
  expect(await keyOf([...ids.slice(0, 63), 7])).not.toBe(key);
  expect(await keyOf([9], {}, { "x-kiln-prefix-key": key! })).toBe(key);
  expect(await keyOf(ids, {}, { "x-kiln-prefix-key": "a b" })).toBe(key);
  await server.close();
});

it("the manifests are YAML of the shape that matters", () => {
  const [service, set] = parseAllDocuments(read("kubernetes.yaml")).map((one) => one.toJS());
  expect([service.kind, set.kind, set.spec.serviceName]).toEqual([
    "Service",
    "StatefulSet",
    service.metadata.name,
  ]);
  const { labels } = set.spec.template.metadata;
  expect(set.spec.selector.matchLabels).toEqual(labels);
  expect(service.spec.selector).toEqual(labels);
  const [container] = set.spec.template.spec.containers;
  expect(container.ports[0].containerPort).toBe(service.spec.ports[0].port);
  expect(container.args).toContain(String(container.ports[0].containerPort));
  expect(container.readinessProbe.httpGet.path).toBe("/ready");
  expect(container.livenessProbe.httpGet.path).toBe("/health");
  const mounts = container.volumeMounts.map(({ name }: { name: string }) => name);
  expect(set.spec.template.spec.volumes.map(({ name }: { name: string }) => name)).toEqual(mounts);

  const compose = parse(read("compose.several.yaml"), { merge: true });
  const upstreams = [...read("nginx.conf").matchAll(/server (kiln-\d+):(\d+)/g)].map(([, name]) => name);
  expect(Object.keys(compose.services)).toEqual([...upstreams, "nginx"]);
  for (const name of upstreams) expect(compose.services[name!].command).toContain("serve");

  const { clusters, listeners } = parse(read("envoy.yaml")).static_resources;
  const places = clusters[0].load_assignment.endpoints[0].lb_endpoints.map(
    (one: { endpoint: { address: { socket_address: { address: string } } } }) =>
      one.endpoint.address.socket_address.address,
  );
  expect(places).toEqual(upstreams);
  expect(clusters[0].lb_policy).toBe("RING_HASH");
  const { route_config } = listeners[0].filter_chains[0].filters[0].typed_config;
  const [{ route }] = route_config.virtual_hosts[0].routes;
  expect(route.cluster).toBe(clusters[0].name);
  expect(route.hash_policy[0].header.header_name).toBe("x-kiln-prefix-key");
  expect(read("nginx.conf")).toContain("$http_x_kiln_prefix_key");
});
