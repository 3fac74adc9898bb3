// Learning rates of optimizer steps, with the formulas of transformers (`optimization.py`), as `peft-onnx train` has them.

/** How the learning rate goes on after the warm-up. */
export type Decay = "constant" | "linear" | "cosine";

/** The learning rates of a run. */
export interface Schedule {
  readonly decay: Decay;
  /** The rate at the end of the warm-up. */
  readonly peak: number;
  /** Optimizer steps over which it rises from zero. */
  readonly warmupSteps: number;
  /** Optimizer steps of the whole run. */
  readonly totalSteps: number;
}

/** The rate of the optimizer step of this number, from 1. */
export function rate({ decay, peak, warmupSteps, totalSteps }: Schedule, step: number): number {
  const taken = Math.max(step - 1, 0);
  if (taken < warmupSteps) return (peak * taken) / Math.max(warmupSteps, 1);
  const length = Math.max(totalSteps - warmupSteps, 1);
  switch (decay) {
    case "constant":
      return peak;
    case "linear":
      return (peak * Math.max(totalSteps - taken, 0)) / length;
    case "cosine":
      return peak * Math.max(0.5 * (1 + Math.cos((Math.PI * (taken - warmupSteps)) / length)), 0);
  }
}
