// What must hold in a simulation: a failure says what did not. (node:assert is not in a browser.)

export class SimulationError extends Error {}

export function ok(condition: unknown, message: string): asserts condition {
  if (!condition) throw new SimulationError(message);
}

export function equal<T extends number | string>(actual: T, expected: T, message = "a value"): void {
  if (actual !== expected) throw new SimulationError(`${message}: ${actual} instead of ${expected}`);
}
