import type { TensorMeta } from "../op.ts";

/**
 * A text that two calls of an op share exactly when they must be lowered alike: layouts, dtypes and attributes. Null
 * where the attributes hold something that text cannot tell apart (a function, a class instance).
 */
export function signatureOf(
  op: string,
  inputs: readonly TensorMeta[],
  attrs: unknown,
  outputs: readonly TensorMeta[],
): string | null {
  const given = attributeText(attrs);
  if (given === null) return null;
  let text = `${op}|${given}`;
  for (const t of inputs) text += `|${t.dtype}${t.shape};${t.strides};${t.offset}`;
  // Outputs are row-major and start at their buffer; their dtypes follow from the call, but fills have no inputs.
  for (const t of outputs) text += `>${t.dtype}${t.shape}`;
  return text;
}

function attributeText(value: unknown): string | null {
  switch (typeof value) {
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "string":
      return JSON.stringify(value);
    case "boolean":
    case "undefined":
      return String(value);
    case "object":
      return value === null ? "null" : objectText(value);
    default:
      return null;
  }
}

function objectText(value: object): string | null {
  const plain = Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
  if (!plain) return null;
  let text = Array.isArray(value) ? "[" : "{";
  for (const key in value) {
    const member = attributeText((value as Record<string, unknown>)[key]);
    if (member === null) return null;
    text += `${JSON.stringify(key)}:${member},`;
  }
  return text;
}
