// The clock of the portable host. performance.now() may stop while the machine sleeps, and then sessions would look
// younger than they are; so when the wall clock ran more than a second ahead of it, the difference is added. (A wall
// clock that is set forward looks the same: that costs a handshake, where the other mistake would cost safety.)

import { THREAD_MONO, THREAD_WALL } from "../../../assembly/abi.ts";
import type { Core } from "../../core.ts";
import type { Clock } from "../types.ts";

const SLEEP_MS = 1000;

export class PortableClock implements Clock {
  readonly #core: Core;
  #slept = 0;
  #lastMono = performance.now();
  #lastWall = Date.now();

  constructor(core: Core) {
    this.#core = core;
  }

  now(): number {
    const mono = performance.now();
    const wall = Date.now();
    const ahead = wall - this.#lastWall - (mono - this.#lastMono);
    if (ahead > SLEEP_MS) this.#slept += ahead;
    this.#lastMono = mono;
    this.#lastWall = wall;
    return mono + this.#slept;
  }

  stamp(): void {
    write(this.#core.view, this.#core.base + THREAD_MONO, this.now());
    write(this.#core.view, this.#core.base + THREAD_WALL, Date.now());
  }
}

/** Writes milliseconds as a timespec {i64 s, i64 ns}. */
export function write(view: DataView, at: number, ms: number): void {
  const sec = Math.floor(ms / 1000);
  view.setUint32(at, sec, true);
  view.setUint32(at + 4, Math.floor(sec / 2 ** 32), true);
  view.setUint32(at + 8, Math.floor((ms - sec * 1000) * 1e6), true);
  view.setUint32(at + 12, 0, true);
}
