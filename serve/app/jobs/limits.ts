/** What one person may ask of the machines that train. */
export const jobLimits = {
  /** Fine-tunes that wait; one more runs. */
  queued: 3,
  /** A run, after which it is ended with its work saved. */
  hours: 2,
  /** From asking a run to end to ending it: together with the time in which that is noticed under 10 s. */
  stopMs: 7000,
  /** What is too little to learn from has fewer of both. */
  examples: 20,
  tokens: 2000,
  /** Versions of a person's model that are kept. */
  versions: 3,
  /** Times that a run is begun again where its worker was lost. */
  attempts: 20,
} as const;
