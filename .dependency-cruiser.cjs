// The house rule (docs/architecture.md): imports point one way only.
//   core <- kernels <- nn <- models <- { train, serve } <- cli      tokenizer only core/errors, core/platform/files
//   within serve: engine <- text <- http, and store, which imports none of ours but core/errors and core/platform
//   page: types of app/protocol.ts alone
const below = {
  core: [],
  kernels: ["core"],
  nn: ["core", "kernels"],
  tokenizer: [],
  models: ["core", "kernels", "nn", "tokenizer"],
  train: ["core", "kernels", "nn", "models", "tokenizer"],
  serve: ["core", "kernels", "nn", "models", "tokenizer"],
};
const all = ["core", "kernels", "nn", "models", "tokenizer", "train", "serve", "bench", "tests", "cli"];
const layers = Object.entries(below).map(([layer, allowed]) => {
  const forbidden = all.filter((other) => other !== layer && !allowed.includes(other));
  return {
    name: `${layer}-imports-only-what-is-below`,
    severity: "error",
    from: { path: `^${layer}/` },
    to: {
      path: `^(${forbidden.join("|")})(/|\\.ts)`,
      // Error lines and whole files are written alike everywhere.
      ...(layer === "tokenizer" && { pathNot: "^core/(errors|platform/files)\\.ts$" }),
    },
  };
});
const serveLayers = ["engine", "text"].map((layer) => ({
  name: `serve-${layer}-imports-only-what-is-below`,
  severity: "error",
  from: { path: `^serve/${layer}/` },
  to: {
    path: `^serve/(?!${layer === "text" ? "text/|" : ""}engine/|limits\\.ts)|(^|node_modules/)fastify/`,
  },
}));
module.exports = {
  forbidden: [
    {
      name: "store-knows-nothing-of-what-it-keeps",
      severity: "error",
      from: { path: "^serve/store/" },
      to: { path: "^(kernels|nn|models|tokenizer)/|^serve/(?!store/)|^core/(?!platform/|errors\\.ts)" },
    },
    {
      name: "no-circular",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "no-circle-of-types-in-webgpu",
      severity: "error",
      from: { path: "^core/webgpu/" },
      to: { circular: true, viaOnly: { path: "^core/webgpu/" } },
    },
    ...layers,
    ...serveLayers,
    {
      name: "page-imports-types-of-the-protocol-alone",
      severity: "error",
      from: { path: "^serve/page/", pathNot: "^serve/page/build\\.ts$" },
      to: {
        path: "^(core|kernels|nn|models|tokenizer|train|serve|bench)/",
        pathNot: "^serve/(page|app/protocol)",
      },
    },
    {
      name: "page-runs-nothing-of-the-server",
      severity: "error",
      from: { path: "^serve/page/" },
      to: { path: "^serve/app/", dependencyTypesNot: ["type-only"] },
    },
    {
      name: "docs-import-the-doors-only",
      severity: "error",
      from: { path: "^docs/" },
      to: { path: "^(core|kernels|nn|models|tokenizer|train|serve|bench)/", pathNot: "/index\\.ts$" },
    },
    {
      name: "tests-only-for-tests",
      severity: "error",
      from: { pathNot: "^tests/" },
      to: { path: "^tests/" },
    },
    {
      name: "bench-only-for-bench",
      severity: "error",
      from: { pathNot: "^(bench|tests)/|^cli\\.ts" },
      to: { path: "^bench/" },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { extensions: [".ts", ".tsx", ".mjs", ".js"] },
  },
};
