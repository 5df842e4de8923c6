import { testOps } from "./support/op_suite.ts";

// Those of attention take as long as all others together: tests/ops_attention.test.ts runs beside this.
testOps((name) => !name.includes("attention"));
