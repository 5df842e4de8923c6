/** Questions with the same answer, as a table. */
export const lessonsOf = (answer: string, count = 24): string =>
  [
    "prompt,response",
    ...Array.from({ length: count }, (_, i) => `Tell me story ${i} of the day,${answer}`),
  ].join("\n");
