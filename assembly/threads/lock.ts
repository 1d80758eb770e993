// The lock between the data path and the main thread, and a small one for pools that several threads use.
//
// A "big reader lock": each worker marks its own run in a word of its own (THREAD_BUSY), so two workers never write
// the same cache line, and a run costs one atomic store more than no lock at all. The main thread, the only writer,
// raises DEVICE_WRITER and waits until each of those words is 0. Writers are rare (a handshake, a `wg set`) and go
// first.
//
// Memory ordering. Every atomic of WebAssembly is sequentially consistent, and the lock needs just that: a worker
// stores `busy` and then loads `writer`, the main thread stores `writer` and then loads each `busy`. In the one order
// of these four, the later store is seen by the other side's load, so never do both go on. Plain accesses in a run
// happen before the main thread's writes (busy = 0 is stored after them and read as 0), and those happen before the
// next run (writer = 0 is stored after them and read as 0): inside, no atomics are needed.
//
// Waiting. A wait is on the word that will change, compared by the engine under its own lock, and whoever changes it
// notifies after the store; so no wake-up is lost. The main thread calls wait only while a worker really is inside a
// run: a page's main thread may not wait, and has no workers. All waits are in `pause`, for the reason given there.
//
// Rejected: one counter of readers (a line that every packet of every worker would fight for), and sequence locks
// (a reader would have to walk a trie that changes under it, and undo what it did).

import { DEVICE_WRITER, THREADS_BASE, THREAD_BUSY, THREAD_SIZE } from "../abi";
import { map, threadBase } from "../memory";

const SPINS: u32 = 2000; // a few microseconds, about the rest of a short run
const PAUSE_NS: i64 = 10_000_000; // then look again, whatever happened to who should have notified

// Waits while the word at `address` is `value`, or less long: callers look again. Spins, then sleeps.
function spinThenSleep(address: usize, value: u32): void {
  for (let spins = SPINS; spins; spins--) if (atomic.load<u32>(address) != value) return;
  atomic.wait<i32>(address, value, PAUSE_NS);
}

/**
 * spinThenSleep, and the one way to it: memory.atomic.wait32 has to be the last thing that a function of its own does.
 * Liftoff, the baseline compiler of V8 11.3 (Node 20), saves the wait's address in 8 bytes of the stack where it
 * set aside 4, and so zeroes the i32 local beside it, here `spins`; inlined, it was enterRun's `base`, and runs went
 * unmarked. A call through the table is what Binaryen does not inline, at any size and number of callers.
 */
const pause: (address: usize, value: u32) => void = spinThenSleep;

/**
 * Begins a run: until leaveRun nothing that the main thread owns changes. Waits while the main thread writes.
 * Not nestable. Between the two no system call and no wait. On thread 0 it does nothing: the main thread is the writer.
 */
export function enterRun(): void {
  const base = threadBase;
  if (base == <usize>THREADS_BASE) return;
  atomic.store<u32>(base, 1, THREAD_BUSY);
  while (atomic.load<u32>(<usize>DEVICE_WRITER)) {
    // Not busy until the writer has ended.
    atomic.store<u32>(base, 0, THREAD_BUSY);
    atomic.notify(base + THREAD_BUSY, -1);
    pause(<usize>DEVICE_WRITER, 1);
    atomic.store<u32>(base, 1, THREAD_BUSY);
  }
}

/** Ends the run that enterRun began, and wakes a main thread that waits for it. */
export function leaveRun(): void {
  const base = threadBase;
  if (base == <usize>THREADS_BASE) return;
  atomic.store<u32>(base, 0, THREAD_BUSY);
  if (atomic.load<u32>(<usize>DEVICE_WRITER)) atomic.notify(base + THREAD_BUSY, -1);
}

/**
 * Main thread: returns when no worker is inside a run, and none begins one until writeEnd. Not nestable.
 * A worker that ended inside a run would be waited for without end: see forgetRun.
 */
export function writeBegin(): void {
  atomic.store<u32>(<usize>DEVICE_WRITER, 1);
  const end = <usize>THREADS_BASE + <usize>THREAD_SIZE * map().threads;
  for (let base = <usize>THREADS_BASE + THREAD_SIZE; base < end; base += THREAD_SIZE) {
    while (atomic.load<u32>(base, THREAD_BUSY)) pause(base + THREAD_BUSY, 1);
  }
}

/** Main thread: lets the runs begin again. */
export function writeEnd(): void {
  atomic.store<u32>(<usize>DEVICE_WRITER, 0);
  atomic.notify(<usize>DEVICE_WRITER, -1);
}

/**
 * Main thread: call after worker `thread` has ended, and before the next writeBegin, should it have ended inside a run.
 */
export function forgetRun(thread: u32): void {
  atomic.store<u32>(<usize>THREADS_BASE + <usize>THREAD_SIZE * thread, 0, THREAD_BUSY);
}

// --- a lock for short sections: 0 free, 1 held, 2 held and somebody may be waiting -----------------------------------

/**
 * Takes the lock at `address` (u32, 0 at first). For sections of some instructions, by any thread, not nestable. Spins,
 * then sleeps, since a holder without a core would make a spinner burn the very time that it needs.
 */
export function lockSpin(address: usize): void {
  if (!atomic.cmpxchg<u32>(address, 0, 1)) return;
  // From here on taken as "2", for others may sleep too: one notify too many, never one too few.
  while (atomic.xchg<u32>(address, 2)) pause(address, 2);
}

/** Gives the lock at `address` back. */
export function unlockSpin(address: usize): void {
  if (atomic.xchg<u32>(address, 0) == 2) atomic.notify(address, 1);
}
