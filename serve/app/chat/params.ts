import { z } from "zod";

/** What a message may set of its answer, in the ranges of engines: what none takes is refused before the message is kept. */
export const answerParams = z.strictObject({
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  max_tokens: z.int().min(1).optional(),
  seed: z.int().optional(),
});
