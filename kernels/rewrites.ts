import type { TraceRewrite } from "../core/webgpu/call.ts";
import { fuseElementwise } from "./elementwise/rewrite.ts";
import { addWhereStored } from "./matmul/rewrite.ts";

/** What compile does to a traced step, in this order: a sum that a product can take in is no longer there to be fused. */
export const rewrites: readonly TraceRewrite[] = [addWhereStored, fuseElementwise];
