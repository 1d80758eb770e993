// AbortSignal, for everything that waits: one error for all, as Node's own functions have it, and a way to listen that
// leaves no listener behind.

import { setMaxListeners } from "node:events";
import { WasmguardError } from "../errors.ts";

/** What an aborted call rejects with: name "AbortError", code "ABORT_ERR", the signal's reason as its cause. */
export class AbortError extends WasmguardError {
  constructor(what: string, cause?: unknown) {
    super("ABORT_ERR", `Cannot ${what}: it was aborted`, { cause });
    this.name = "AbortError";
  }
}

/** @throws AbortError */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new AbortError(what, signal.reason);
}

/** Calls once, at once when it is aborted already. @returns what ends the waiting */
export function onAbort(signal: AbortSignal | undefined, call: () => void): () => void {
  if (!signal) return () => {};
  if (signal.aborted) {
    call();
    return () => {};
  }
  // One signal for a hundred connections is no leak, and no reason for a warning of Node's.
  setMaxListeners(0, signal);
  signal.addEventListener("abort", call, { once: true });
  return () => signal.removeEventListener("abort", call);
}

/** The promise, or AbortError if the signal comes first. The work behind it is not stopped: who can, listens too. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined, what: string): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const stop = onAbort(signal, () => reject(new AbortError(what, signal.reason)));
    promise.then(resolve, reject).finally(stop);
  });
}
