import { createHash } from "node:crypto";

const BEGINNING = "user-";
/** Of a name in the registry. */
const LONGEST = 96;

/** Whether a model may be a person's own. */
export const isPersonal = (model: string): boolean => model.startsWith(BEGINNING);

/**
 * What a person's own model is called in the registry. No two people share one, whatever their names: letters that a name of a model
 * may not have, or that a disk may not tell apart, become their bytes.
 */
export function modelOf(userId: string): string {
  // Who has no login has a name below that of the one user.
  const own = userId.replace(/^local\//, "");
  const safe = [...Buffer.from(own)].map((byte) => {
    const letter = String.fromCharCode(byte);
    return /[a-z\d-]/.test(letter) ? letter : `_${byte.toString(16).padStart(2, "0")}`;
  });
  const name = BEGINNING + safe.join("");
  return name.length <= LONGEST
    ? name
    : `${BEGINNING}_h${createHash("sha256").update(own).digest("hex").slice(0, 48)}`;
}
