import { testOps } from "./support/op_suite.ts";

testOps((name) => name.includes("attention"));
