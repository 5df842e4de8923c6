import { retrace } from "../core/compile.ts";
import { device, dispose, persist, scope } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { numel, type Shape, sameShape, show } from "../core/shape.ts";
import { Tensor } from "../core/tensor.ts";
import { assignInto } from "../kernels/index.ts";

/** What a model computes in: its matrices and activations. Sums, norms' statistics, softmax and losses are f32 in both. */
export type ComputeDtype = "f32" | "f16";

let matrixDtype: ComputeDtype = "f32";
let roomOnly = false;

/** Modules made in `body` keep their matrices in `dtype` alone: half the memory for a model that is not to be trained. */
export function withMatrices<T>(dtype: ComputeDtype, body: () => T): T {
  const before = matrixDtype;
  matrixDtype = dtype;
  try {
    return body();
  } finally {
    matrixDtype = before;
  }
}

/** Modules made in `body` get room for their parameters and no values: for models that are loaded or `init`ed next. */
export function withoutValues<T>(body: () => T): T {
  const before = roomOnly;
  roomOnly = true;
  try {
    return body();
  } finally {
    roomOnly = before;
  }
}

/**
 * A tensor that training changes: a leaf that outlives every scope. In mixed precision a matrix has an f16 copy beside
 * it, which forward and backward passes read; vectors (norms, biases) stay f32.
 */
export class Parameter extends Tensor {
  #copied: Tensor | null = null;
  /** Whether it is the matrix of a projection into the residual stream: fresh models start these smaller. */
  residual = false;

  /** A parameter that holds what `values` makes for its shape; only room for it inside of `withoutValues`. */
  static make(shape: Shape, values: (shape: Shape) => Tensor): Parameter {
    const storage = device().allocate(shape.length >= 2 ? matrixDtype : "f32", numel(shape));
    storage.moveTo(null);
    const parameter = new Parameter(storage, shape);
    if (!roomOnly) scope(() => assignInto(parameter, values(shape)));
    return parameter.requireGrad();
  }

  /** Whether it has a row for each token, as embeddings and the head have: some optimizers treat these as no matrix. */
  perToken = false;

  /** The rounded copy, or null where passes read this tensor itself. Who changes this tensor rewrites the copy. */
  get half(): Tensor | null {
    return this.#copied;
  }

  /** What passes read and take gradients of. */
  get compute(): Tensor {
    return this.#copied ?? this;
  }

  /** Makes or drops the copy. */
  computeIn(dtype: ComputeDtype): void {
    retrace();
    dispose(this.#copied);
    this.#copied = null;
    if (this.rank < 2 || dtype === this.dtype) return;
    if (dtype === "f32") throw new KilnError("this model's matrices were made in f16; load it in f32");
    this.#copied = persist(new Tensor(this.device.allocate(dtype, this.size), this.shape).requireGrad());
    this.refresh();
  }

  /** Rounds the values into the copy, on the device: the same bits as an optimizer's pass writes. */
  refresh(): void {
    if (this.#copied) assignInto(this.#copied, this);
  }

  override write(values: ArrayLike<number>): void {
    super.write(values);
    this.refresh();
  }
}

/**
 * A piece of a model: a plain class whose fields are parameters, other modules, or arrays of modules. Parameters are
 * found by walking the fields; their names are the fields' in snake case joined by dots, which is how Hugging Face
 * checkpoints name them (`selfAttn.qProj.weight` is `self_attn.q_proj.weight`).
 */
export class Module {
  /** Every parameter with its name, in field order; one that is shared (tied) appears once, under its first name. */
  namedParameters(): Map<string, Parameter> {
    const found = new Map<string, Parameter>();
    const seen = new Set<unknown>();
    walk(this, "", (name, parameter) => {
      if (!seen.has(parameter)) found.set(name, parameter);
      seen.add(parameter);
    });
    return found;
  }

  parameters(): Parameter[] {
    return [...this.namedParameters().values()];
  }

  /** Number of trained values; tied ones count once. */
  get numParameters(): number {
    return this.parameters().reduce((sum, p) => sum + p.size, 0);
  }

  /** Overwrites every parameter; a missing name or another shape is an error that names the tensor. */
  loadParameters(
    read: (name: string) => { shape: Shape; values: () => ArrayLike<number> } | undefined,
  ): void {
    for (const [name, parameter] of this.namedParameters()) {
      const given = read(name);
      if (!given) throw new KilnError(`the checkpoint has no tensor ${name}; it does not fit this model`);
      if (!sameShape(given.shape, parameter.shape)) {
        throw new KilnError(
          `the checkpoint's ${name} is ${show(given.shape)}, the config says ${show(parameter.shape)}; check config.json`,
        );
      }
      parameter.write(given.values());
    }
  }
}

function walk(value: unknown, path: string, visit: (name: string, parameter: Parameter) => void): void {
  if (value instanceof Parameter) visit(path, value);
  else if (Array.isArray(value)) {
    value.forEach((item, i) => {
      walk(item, join(path, String(i)), visit);
    });
  } else if (value instanceof Module) {
    for (const [field, item] of Object.entries(value)) walk(item, join(path, snakeCase(field)), visit);
  }
}

function join(path: string, name: string): string {
  return path ? `${path}.${name}` : name;
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
