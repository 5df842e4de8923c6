/** What one person may keep, and how long reading may take. */
export const documentLimits = {
  documents: 200,
  fileBytes: 50e6,
  allBytes: 500e6,
  /** Of a name, which is kept to be shown and never used as a path. */
  nameChars: 300,
} as const;
