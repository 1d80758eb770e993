// Loops for test/memory/races.test.ts: what threads do to one another's words, so close together that they meet, which
// calls from JavaScript would not. Each loop checks what it sees and counts what cannot be.

export { bindThread } from "../../assembly/memory";
export { deviceInit, deviceUp, memoryPages, peerAdd, peerSetPersistentKeepalive } from "../../assembly/index";

import {
  DEVICE_BASE, ENDPOINT_LEN, OK, SLOTS_SIZE, THREADS_END, THREAD_ARGUMENT, THREAD_MONO, THREAD_MORE,
} from "../../assembly/abi";
import { map, threadBase, threadNumber } from "../../assembly/memory";
import { enterRun, leaveRun, writeBegin, writeEnd } from "../../assembly/threads/lock";
import { clearSource, readEndpoint, setEndpoint } from "../../assembly/tunnel/endpoint";
import { now, NS_PER_SEC } from "../../assembly/tunnel/input";
import { Peer, peerAt } from "../../assembly/tunnel/peer";
import { deviceNextDeadline, deviceService } from "../../assembly/tunnel/service";
import { nextCounter, Session } from "../../assembly/tunnel/session";
import { stagedLength, stagePacket, unstagePacket } from "../../assembly/tunnel/staging";
import {
  anyAuthenticatedReceived, anyAuthenticatedSent, anyAuthenticatedTraversal, dataReceived, dataSent, earliest,
  timerDeadline, TIMER_SEND_PERSISTENT_KEEPALIVE,
} from "../../assembly/tunnel/timers";

function slots(): usize {
  return THREADS_END + <usize>SLOTS_SIZE * threadNumber();
}

function next(seed: u32): u32 {
  return seed * 1664525 + 1013904223;
}

// --- endpoints: every word of a record is the same, or the source is zero -------------------------------------------

const SOURCE: usize = 24;

export function endpointWrites(peer: u32, times: u32, seed: u32): void {
  const record = threadBase + THREAD_ARGUMENT;
  for (let i: u32 = 0; i < times; i++) {
    seed = next(seed);
    for (let at: usize = 0; at < <usize>ENDPOINT_LEN; at += 4) store<u32>(record + at, seed | 1);
    setEndpoint(peerAt(peer), record);
    if (!(seed >> 28)) clearSource(peerAt(peer));
  }
}

/** @returns torn records */
export function endpointReads(peer: u32, times: u32): u32 {
  const record = threadBase + THREAD_ARGUMENT + 64;
  let torn: u32 = 0;
  for (let i: u32 = 0; i < times; i++) {
    readEndpoint(record, peerAt(peer));
    const word = load<u32>(record);
    const source = load<u32>(record, SOURCE);
    let whole = source == word || source == 0;
    for (let at: usize = 4; at < <usize>ENDPOINT_LEN; at += 4)
      if (load<u32>(record + at) != (at < SOURCE ? word : source)) whole = false;
    if (!whole) torn++;
  }
  return torn;
}

// --- counters: each draw is one nobody else has ---------------------------------------------------------------------

/** Draws `times` counters of the session at `session`. @returns their sum */
export function counterDraws(session: usize, times: u32): u64 {
  let sum: u64 = 0;
  for (let i: u32 = 0; i < times; i++) sum += nextCounter(changetype<Session>(session));
  return sum;
}

// --- staging: {length, thread, number, thread ^ number ...} ---------------------------------------------------------

/** Stages `times` packets, numbered from `first`. @returns how many were dropped, of whomsoever */
export function stageRuns(peer: u32, times: u32, first: u32): u32 {
  const packet = slots();
  const thread = threadNumber();
  let dropped: u32 = 0;
  for (let i: u32 = 0; i < times; i++) {
    const number = first + i;
    const len: u32 = 16 + (next(number * 7 + thread) >> 20); // up to three blocks
    store<u32>(packet, len);
    store<u32>(packet, thread, 4);
    store<u32>(packet, number, 8);
    for (let at: usize = 12; at < <usize>len; at += 4) store<u32>(packet + at, thread ^ number);
    enterRun();
    const result = stagePacket(peerAt(peer), packet, len);
    leaveRun();
    dropped += result < 0 ? 1 + (-1 - result) : result;
  }
  return dropped;
}

/** Takes all staged packets of a peer. @returns how many; traps on one that is not whole, or comes out of order */
export function unstageAll(peer: u32): u32 {
  const p = peerAt(peer);
  const packet = slots();
  const newest = packet + 0x10000; // u32 a thread
  let taken: u32 = 0;
  writeBegin();
  while (p.stagedCount) {
    const len = stagedLength(p);
    if (unstagePacket(p, packet) != len || load<u32>(packet) != len) unreachable();
    const thread = load<u32>(packet, 4);
    const number = load<u32>(packet, 8);
    for (let at: usize = 12; at + 4 <= <usize>len; at += 4)
      if (load<u32>(packet + at) != (thread ^ number)) unreachable();
    if (number <= load<u32>(newest + (<usize>thread << 2))) unreachable();
    store<u32>(newest + (<usize>thread << 2), number);
    taken++;
  }
  writeEnd();
  return taken;
}

// --- timers: the clock is a word that the main thread moves ---------------------------------------------------------

const CLOCK: usize = DEVICE_BASE + 0xff00; // ns + 1, at the end of the device page, which is free

function stamp(time: u64): void {
  store<u64>(threadBase, time / NS_PER_SEC, THREAD_MONO);
  store<u64>(threadBase, time % NS_PER_SEC, THREAD_MONO + 8);
}

/** What lanes do to timers, `times` times, on any of `peers` peers. @returns timers that were lost while watched */
export function timerRuns(peers: u32, times: u32, seed: u32): u32 {
  let lost: u32 = 0;
  for (let i: u32 = 0; i < times; i++) {
    seed = next(seed);
    const peer = peerAt((seed >> 8) % peers);
    enterRun();
    stamp(atomic.load<u64>(CLOCK));
    const time = now();
    const what = seed >> 29;
    if (what == 0) dataSent(peer, time);
    else if (what == 1) dataReceived(peer, time);
    else if (what == 2) anyAuthenticatedSent(peer);
    else if (what == 3) anyAuthenticatedReceived(peer);
    else {
      anyAuthenticatedTraversal(peer, time);
      const due = time + <u64>peer.persistentKeepalive * NS_PER_SEC;
      for (let look = 0; look < 8; look++)
        if (!timerDeadline(peer, TIMER_SEND_PERSISTENT_KEEPALIVE) && atomic.load<u64>(CLOCK) < due - 1) lost++;
    }
    leaveRun();
  }
  return lost;
}

/** The main thread's part: moves the clock and does what is due, `times` times. @returns OK, or deviceService's */
export function serviceRuns(times: u32, step: u32): i32 {
  for (let i: u32 = 0; i < times; i++) {
    const time = load<u64>(CLOCK) + step;
    atomic.store<u64>(CLOCK, time);
    stamp(time);
    do {
      const status = deviceService();
      if (status < 0) return status;
    } while (load<u32>(threadBase, THREAD_MORE));
    deviceNextDeadline();
  }
  return OK;
}

/** With all threads at rest: peers whose place in the heap is later than a timer, or whose work was forgotten. */
export function timersForgotten(peers: u32): u32 {
  let forgotten: u32 = 0;
  for (let number: u32 = 0; number < peers; number++) {
    const peer = peerAt(number);
    const pending = atomic.load<u32>(changetype<usize>(peer), offsetof<Peer>("pending"));
    if (earliest(peer) < peer.deadline || pending) forgotten++;
  }
  return forgotten;
}

/** A place for a session that belongs to no peer. */
export function spareSession(): usize {
  return map().slots + 0x8000;
}
