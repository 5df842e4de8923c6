import { Ambient } from "../core/ambient.ts";
import { dependsOn, retrace } from "../core/compile.ts";
import { device, type Storage } from "../core/device.ts";
import { KilnError } from "../core/errors.ts";
import { dispose, persist, scope } from "../core/scope.ts";
import { checkShape, numel, type Shape, sameShape, show } from "../core/shape.ts";
import { type NestedNumbers, Tensor, tensor } from "../core/tensor.ts";
import { assignInto, copy } from "../kernels/index.ts";

/**
 * The dtype of a model's matrices and activations; sums, statistics of norms, softmax and losses are f32 in both. There are
 * three ways to choose it. By default everything is f32. `Parameter.computeIn("f16")` adds an f16 copy beside each f32 matrix:
 * mixed precision, for training. `withMatrices("f16", ...)` makes modules that hold f16 matrices alone, for models that only
 * answer. Vectors (norms, biases) and buffers are always f32.
 */
export type ComputeDtype = "f32" | "f16";

const matrixDtype = new Ambient<ComputeDtype>("f32");
const roomOnly = new Ambient(false);

/** Modules made in `body` hold their matrices in `dtype`; f16 halves the memory of a model that is not to be trained. */
export function withMatrices<T>(dtype: ComputeDtype, body: () => T): T {
  return matrixDtype.during(dtype, body);
}

/** Modules made in `body` leave their parameters uninitialised: for models that are loaded or initialised next. */
export function withoutValues<T>(body: () => T): T {
  return roomOnly.during(true, body);
}

/** Memory for a module's tensor, which outlives every scope. */
function persistent(dtype: ComputeDtype, shape: Shape): Storage {
  const storage = device().allocate(dtype, numel(shape));
  storage.moveTo(null);
  return storage;
}

/** Values for a tensor of a module: a tensor, or nested lists of numbers. */
export type StateValues = Tensor | NestedNumbers;

/** A tensor that has its memory for itself, from the start of it. */
function wholeOf(values: StateValues): Tensor {
  const given = values instanceof Tensor ? values : tensor(values);
  return given.contiguous && given.offset === 0 ? given : copy(given);
}

/** A tensor that forward passes read or update but no optimizer trains, such as running statistics; part of the state. */
export class Buffer extends Tensor {
  /** Takes the memory of `values` over, of a view that of a copy. */
  constructor(values: StateValues) {
    const { storage, shape } = wholeOf(values);
    super(storage, shape);
    storage.moveTo(null);
  }

  /** A buffer of `shape` that holds what `values` returns; uninitialised inside `withoutValues`. */
  static make(shape: Shape, values: (shape: Shape) => Tensor): Buffer {
    checkShape("a buffer of a module", shape);
    const buffer = new Buffer(new Tensor(persistent("f32", shape), shape));
    if (!roomOnly.value) scope(() => assignInto(buffer, values(shape)));
    return buffer;
  }
}

/**
 * A tensor that an optimizer trains: a leaf that outlives every scope. In mixed precision a matrix has an f16 copy, which
 * forward and backward passes read; vectors (norms, biases) stay f32.
 */
export class Parameter extends Tensor {
  #copied: Tensor | null = null;
  /** Whether it is the matrix of a projection into the residual stream: fresh models start these smaller. */
  residual = false;

  /** torch.nn.Parameter: takes the memory of `values` over, of a view that of a copy. Throws a KilnError for integers. */
  constructor(values: StateValues) {
    const { storage, shape } = wholeOf(values);
    super(storage, shape);
    storage.moveTo(null);
    this.requireGrad();
  }

  /** A parameter of `shape` that holds what `values` returns; uninitialised inside `withoutValues`. */
  static make(shape: Shape, values: (shape: Shape) => Tensor): Parameter {
    checkShape("a parameter of a module", shape);
    const dtype = shape.length >= 2 ? matrixDtype.value : "f32";
    const parameter = new Parameter(new Tensor(persistent(dtype, shape), shape));
    if (!roomOnly.value) scope(() => assignInto(parameter, values(shape)));
    return parameter;
  }

  /** Whether it has a row for each token, as embeddings and the head have: some optimizers do not treat these as matrices. */
  perToken = false;

  /** The f16 copy, or null where passes read this tensor itself. Whoever updates this tensor must `refresh` the copy. */
  get half(): Tensor | null {
    return this.#copied;
  }

  /** The tensor that passes read and differentiate with respect to. */
  get compute(): Tensor {
    return this.#copied ?? this;
  }

  /** Makes the f16 copy or drops it. */
  computeIn(dtype: ComputeDtype): void {
    retrace();
    dispose(this.#copied);
    this.#copied = null;
    if (this.rank < 2 || dtype === this.dtype) return;
    if (dtype === "f32") throw new KilnError("this model's matrices were made in f16; load it in f32");
    this.#copied = persist(new Tensor(this.device.allocate(dtype, this.size), this.shape));
    this.#copied.requiresGrad = this.requiresGrad;
    this.refresh();
  }

  /** Leaves it out of derivatives, and its copy, or takes it in again. */
  freeze(frozen = true): void {
    this.requiresGrad = !frozen;
    if (this.#copied) this.#copied.requiresGrad = !frozen;
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
 * A piece of a model: a plain class whose fields are parameters, buffers, other modules, or arrays or objects of them. They are
 * found by walking the public fields; their names are the fields' in snake case joined by dots, as in PyTorch's state dicts
 * and Hugging Face checkpoints (`selfAttn.qProj.weight` is `self_attn.q_proj.weight`, `layers[0].bias` is `layers.0.bias`).
 */
export class Module {
  #training = true;

  /** Whether dropout drops and batch norm uses the batch's statistics; a compiled step is traced again when it changes. */
  get training(): boolean {
    return dependsOn(() => this.#training);
  }

  /** Puts this module and all modules inside it into training mode, which new modules are in, or takes them out of it. */
  train(mode = true): this {
    for (const [, part] of partsOf(this)) if (part instanceof Module) part.#training = mode;
    return this;
  }

  /** Puts this module and all modules inside it into evaluation mode. */
  eval(): this {
    return this.train(false);
  }

  /** Every parameter with its name, in field order; a tied (shared) one appears once, under its first name. */
  namedParameters(): Map<string, Parameter> {
    const found = new Map<Parameter, string>();
    for (const [name, part] of partsOf(this))
      if (part instanceof Parameter && !found.has(part)) found.set(part, name);
    return new Map([...found].map(([parameter, name]) => [name, parameter]));
  }

  /** This module, under the empty name, and every module inside it. */
  namedModules(): Map<string, Module> {
    const modules = new Map<string, Module>();
    for (const [name, part] of partsOf(this)) if (part instanceof Module) modules.set(name, part);
    return modules;
  }

  parameters(): Parameter[] {
    return [...this.namedParameters().values()];
  }

  /** The number of trained values; tied ones count once. */
  get numParameters(): number {
    return this.parameters().reduce((sum, p) => sum + p.size, 0);
  }

  /** Frees the gradients that `backward()` left in the parameters. */
  zeroGrad(): void {
    for (const parameter of this.parameters()) {
      dispose(parameter.grad);
      parameter.grad = null;
    }
  }

  /** Parameters and buffers by PyTorch's names, a tied one under each of its names. The tensors themselves, not copies. */
  stateDict(): Map<string, Parameter | Buffer> {
    const state = new Map<string, Parameter | Buffer>();
    for (const [name, part] of partsOf(this)) if (!(part instanceof Module)) state.set(name, part);
    return state;
  }

  /**
   * Overwrites parameters and buffers with the values of those names. With `strict: false` values may be missing or left
   * over; their names are returned.
   *
   * @throws KilnError that lists what is missing, left over or of another shape; nothing is overwritten then
   */
  loadStateDict(
    state: ReadonlyMap<string, StateValues> | Readonly<Record<string, StateValues>>,
    { strict = true }: { strict?: boolean } = {},
  ): { missing: string[]; unexpected: string[] } {
    const given = state instanceof Map ? state : new Map(Object.entries(state));
    const own = this.stateDict();
    const missing = [...own.keys()].filter((name) => !given.has(name));
    const unexpected = [...given.keys()].filter((name) => !own.has(name));
    scope(() => {
      const pairs = [...own].flatMap(([name, target]) => {
        const values = given.get(name);
        if (values === undefined) return [];
        return { name, target, source: values instanceof Tensor ? values : tensor(values) };
      });
      const problems = pairs
        .filter(({ target, source }) => !sameShape(target.shape, source.shape))
        .map(
          ({ name, target, source }) => `${name} is ${show(source.shape)} instead of ${show(target.shape)}`,
        );
      if (strict && missing.length > 0) problems.push(`missing: ${missing.join(", ")}`);
      if (strict && unexpected.length > 0) problems.push(`not part of this module: ${unexpected.join(", ")}`);
      if (problems.length > 0) throw new KilnError(`loadStateDict: ${problems.join("; ")}`);
      for (const { target, source } of pairs) {
        assignInto(target, source);
        if (target instanceof Parameter) target.refresh();
      }
    });
    return { missing, unexpected };
  }

  /**
   * Overwrites every parameter and buffer but those for which `read` gives null; a missing name or another shape is an error
   * that names the tensor.
   */
  loadParameters(
    read: (name: string) => { shape: Shape; values: () => ArrayLike<number> } | undefined | null,
  ): void {
    for (const [name, target] of this.stateDict()) {
      const given = read(name);
      if (given === null) continue;
      if (!given) throw new KilnError(`the checkpoint has no tensor ${name}; it does not fit this model`);
      if (!sameShape(given.shape, target.shape)) {
        throw new KilnError(
          `the checkpoint's ${name} is ${show(given.shape)}, the config says ${show(target.shape)}; check config.json`,
        );
      }
      target.write(given.values());
    }
  }
}

/** What a module consists of, with names, in field order: itself, the modules inside it, parameters and buffers. */
function* partsOf(value: unknown, path = ""): Generator<[name: string, part: Module | Parameter | Buffer]> {
  if (value instanceof Parameter || value instanceof Buffer) yield [path, value];
  else if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) yield* partsOf(item, join(path, String(i)));
  } else if (
    value !== null &&
    typeof value === "object" &&
    Object.getPrototypeOf(value) === Object.prototype
  ) {
    for (const [key, item] of Object.entries(value)) yield* partsOf(item, join(path, key));
  } else if (value instanceof Module) {
    yield [path, value];
    for (const [field, item] of Object.entries(value)) yield* partsOf(item, join(path, snakeCase(field)));
  }
}

function join(path: string, name: string): string {
  return path ? `${path}.${name}` : name;
}

/** A name that begins with a capital stays as it is: checkpoints of BERT have a `LayerNorm`. */
function snakeCase(name: string): string {
  if (/^[A-Z]/.test(name)) return name;
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
