import { z } from "zod";
import { finished } from "../answer.ts";
import { encoderNamed, route } from "../route.ts";
import { encoderAdvice, encoderHeader, encoderUsage, textList, truncation } from "./inputs.ts";

/** POST /classify, as vLLM has it: how likely each label of a text is, and the likeliest. */
export const classify = route({
  method: "POST",
  path: "/classify",
  summary: "How likely each label of a text is",
  example: { model: "MODEL", input: ["It was fun."] },
  bodyBytes: (limits) => limits.textsBodyBytes,
  advice: encoderAdvice("input"),
  schema: () => z.object({ model: z.string().min(1), input: z.unknown().optional(), ...truncation }),
  handle: async ({ body, service, caller, reply }) => {
    const { model, truncate_prompt_tokens: truncate } = body;
    const frontend = encoderNamed(service, model, ["classify", "score"], "/classify");
    const { labels, scores } = frontend.task;
    const inputs = textList("input", body.input, service.limits.inputs);
    const job = await finished(frontend.start({ inputs, client: caller.client, truncate }), reply);
    const data = (await job.done).map((logits, index) => {
      const probs = scores(logits);
      const label = labels[probs.indexOf(Math.max(...probs))];
      return { index, label, probs, num_classes: labels.length };
    });
    const usage = { ...encoderUsage(job), completion_tokens: 0, prompt_tokens_details: null };
    return { ...encoderHeader("classify", model), data, usage };
  },
});
