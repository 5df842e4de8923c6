import type { Route } from "../route.ts";

/** GET /metrics: counts and times in the text format of Prometheus, version 0.0.4. */
export const metrics: Route = {
  method: "GET",
  path: "/metrics",
  summary: "Counters and histograms for Prometheus",
  handle: ({ service, reply }) => {
    reply.header("content-type", service.metrics.contentType);
    return service.metrics.text();
  },
};
