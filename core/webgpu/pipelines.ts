import { type DType, wgslType } from "../dtype.ts";
import { KilnError } from "../errors.ts";
import type { DeviceProfile } from "../op.ts";
import { environmentVariable } from "../platform/environment.ts";
import {
  type Binding,
  type Defines,
  findBindings,
  paramLayout,
  preprocess,
  type SourceReader,
} from "../wgsl.ts";
import { matrixEnable } from "./matrix_units.ts";

/** A kernel with what is needed to bind it. */
export interface Kernel {
  readonly id: number;
  readonly label: string;
  readonly source: string;
  /** Compiled when first asked for, unless `Pipelines.warm` was quicker. */
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Storage bindings in order; the uniform is binding 0 where the kernel has one. */
  readonly storage: readonly Binding[];
  readonly hasParams: boolean;
  readonly params: ReturnType<typeof paramLayout>;
}

/** How a kernel is compiled, and the result once it is. */
interface ColdKernel {
  descriptor: GPUComputePipelineDescriptor;
  pipeline: GPUComputePipeline | null;
  make(): GPUComputePipeline;
}

/** Compiles kernels once: the whole specialised source is the key, with a cheaper key in front of it. */
export class Pipelines {
  readonly #byCall = new Map<string, Kernel>();
  readonly #bySource = new Map<string, Kernel>();
  /** What nobody has asked for yet. */
  readonly #cold = new Set<ColdKernel>();
  readonly #layouts = new Map<string, { group: GPUBindGroupLayout; pipeline: GPUPipelineLayout }>();
  readonly #device: GPUDevice;
  readonly #profile: DeviceProfile;
  readonly #read: SourceReader;
  readonly #check: () => void;

  /** `check` throws what the device has reported since. */
  constructor(device: GPUDevice, profile: DeviceProfile, read: SourceReader, check = () => {}) {
    this.#device = device;
    this.#profile = profile;
    this.#read = read;
    this.#check = check;
  }

  /** Number of distinct kernels so far. */
  get count(): number {
    return this.#bySource.size;
  }

  get(file: string, defines: Defines, inputs: readonly DType[], outputs: readonly DType[]): Kernel {
    const key = `${file}|${inputs.join()}|${outputs.join()}|${JSON.stringify(defines)}`;
    let kernel = this.#byCall.get(key);
    if (!kernel) {
      kernel = this.#declare(file, this.#source(file, defines, inputs, outputs));
      this.#byCall.set(key, kernel);
    }
    return kernel;
  }

  /** Header and preprocessed text: what the driver sees. */
  #source(file: string, defines: Defines, inputs: readonly DType[], outputs: readonly DType[]): string {
    const { f16, subgroupSize } = this.#profile;
    // T0 is the element type of input 0, T0v of VEC of its elements; U0 and U0v are those of output 0.
    const typesOf = (letter: string) => (dtype: DType, i: number) => {
      const one = wgslType(dtype);
      return [
        `alias ${letter}${i} = ${one};`,
        `alias ${letter}${i}v = ${defines.VEC === 4 ? `vec4<${one}>` : one};`,
      ];
    };
    const types = [...inputs.flatMap(typesOf("T")), ...outputs.flatMap(typesOf("U"))];
    const body = preprocess(file, { SG: subgroupSize, ...defines }, this.#read);
    const words = new Set(body.match(/\b[TU]\d+v?\b/g));
    const header = [
      body.includes("subgroup_matrix_") ? matrixEnable : "",
      f16 ? "enable f16;" : "",
      subgroupSize > 0 ? "enable subgroups;\ndiagnostic(off, subgroup_uniformity);" : "",
      "diagnostic(off, derivative_uniformity);",
      // Names that the kernel does not use would only make the same kernel look like another.
      ...types.filter((alias) => words.has(alias.split(" ")[1])),
    ];
    return [...header, body].filter(Boolean).join("\n");
  }

  #declare(file: string, source: string): Kernel {
    const known = this.#bySource.get(source);
    if (known) return known;
    const debug = debugLevel();
    if (debug >= 2) console.error(`compile ${file}${debug >= 4 ? `\n${source}` : ""}`);
    const bindings = findBindings(source);
    const { group, pipeline: layout } = this.#layoutOf(bindings);
    const module = this.#device.createShaderModule({ code: source, label: file });
    this.#check();
    const descriptor = { label: file, layout, compute: { module, entryPoint: "main" } };
    const storage = bindings.filter((b) => b.kind !== "uniform");
    const cold: ColdKernel = {
      descriptor,
      pipeline: null,
      make: () => {
        const pipeline = cold.pipeline ?? this.#device.createComputePipeline(descriptor);
        // Before it joins the encoder: a pipeline that does not compile would take the work recorded so far with it.
        this.#check();
        cold.pipeline = pipeline;
        this.#cold.delete(cold);
        return pipeline;
      },
    };
    const kernel: Kernel = {
      id: this.#bySource.size,
      label: file,
      source,
      get pipeline() {
        return cold.pipeline ?? cold.make();
      },
      layout: group,
      storage,
      hasParams: storage.length < bindings.length,
      params: paramLayout(source),
    };
    this.#bySource.set(source, kernel);
    this.#cold.add(cold);
    return kernel;
  }

  /**
   * Compiles every kernel that has been planned and not run yet, side by side on as many threads as the driver uses.
   * Software adapters one after the other: SwiftShader took two to three times the processor time side by side.
   */
  async warm(): Promise<void> {
    if (this.#profile.class === "cpu") {
      for (const { make } of [...this.#cold]) make();
      return;
    }
    const waiting = [...this.#cold];
    this.#cold.clear();
    const compile = async (kernel: ColdKernel) => {
      try {
        const pipeline = await this.#device.createComputePipelineAsync(kernel.descriptor);
        kernel.pipeline ??= pipeline;
      } catch (error) {
        throw new KilnError(`${kernel.descriptor.label} does not compile: ${(error as Error).message}`, {
          code: "webgpu_error",
        });
      }
    };
    await Promise.all(waiting.map(compile));
  }

  #layoutOf(bindings: readonly Binding[]) {
    const key = bindings.map((b) => `${b.index}${b.kind}`).join();
    let layout = this.#layouts.get(key);
    if (!layout) {
      const entries = bindings.map(
        ({ index, kind }): GPUBindGroupLayoutEntry => ({
          binding: index,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type: kind, hasDynamicOffset: kind === "uniform" },
        }),
      );
      const group = this.#device.createBindGroupLayout({ entries });
      layout = { group, pipeline: this.#device.createPipelineLayout({ bindGroupLayouts: [group] }) };
      this.#layouts.set(key, layout);
    }
    return layout;
  }
}

/** `DEBUG=1` shows stacks, 2 compilations, 3 dispatches, 4 the full source of kernels. */
export function debugLevel(): number {
  return Number(environmentVariable("DEBUG") ?? 0) || 0;
}
