import { armOf, bucket } from "./bucket.ts";

/** An arm as `experiment.arms` keeps it. */
export interface Arm {
  /** `name@version` */
  readonly name: string;
  /** As it was given; what people go on asking for, of the control. */
  readonly asked: string;
  readonly weight: number;
}

/** A running experiment, as far as an answer needs it. */
export interface Running {
  readonly id: string;
  readonly name: string;
  readonly unit: "user" | "conversation";
  readonly arms: readonly Arm[];
}

/** The arm that answers somebody. */
export interface Assigned {
  readonly experimentId: string;
  readonly unit: string;
  /** The model that answers, as `name@version`. */
  readonly model: string;
  /** `EXPERIMENT/ARM`: what messages and events have. */
  readonly label: string;
}

export const labelOf = ({ name }: { readonly name: string }, arm: Pick<Arm, "name">): string =>
  `${name}/${arm.name}`;

/** Where a request of somebody falls, by a hash of who asks: the same arm at every time and on every server. */
export function assigned(experiment: Running, userId: string, conversationId: string): Assigned {
  const unit = experiment.unit === "user" ? userId : conversationId;
  const weights = experiment.arms.map(({ weight }) => weight);
  const arm = experiment.arms[armOf(bucket(experiment.id, unit), weights)]!;
  return { experimentId: experiment.id, unit, model: arm.name, label: labelOf(experiment, arm) };
}
