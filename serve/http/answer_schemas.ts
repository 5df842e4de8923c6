import answers from "./openai_answers.json" with { type: "json" };

/** What an answer, or an event of a stream, can be. */
export type AnswerName = keyof typeof answers.$defs;

/** Where a document with `answerSchemas` as `components.schemas` has one. */
export const answerRef = (name: AnswerName) => ({ $ref: `#/components/schemas/${name}` });

/** The schemas of all answers of OpenAI's routes, which refer to each other as parts of an OpenAPI document do. */
export function answerSchemas(): Record<AnswerName, object> {
  return JSON.parse(JSON.stringify(answers.$defs).replaceAll('"#/$defs/', '"#/components/schemas/'));
}
