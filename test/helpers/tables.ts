// The module of test/assembly/tables.ts over a memory with the map of a device, and a seeded source of numbers.
import { PAGE_SIZE } from "../../assembly/abi.ts";
import { loadTest, type TestModule } from "./wasm.ts";

/** What test/assembly/tables.ts exports; addresses and u32 arrive as signed numbers, u64 as signed BigInt. */
export interface Tables {
  MAP: { value: number };
  layOut(dst: number, maxPeers: number, maxNodes: number, threads: number): number;
  bindThread(thread: number): void;
  peerAddress(peer: number): number;
  sipHashAt(secret: number, src: number): bigint;
  enterRun(): void;
  leaveRun(): void;
  writeBegin(): void;
  writeEnd(): void;
  forgetRun(thread: number): void;
  lockSpin(address: number): void;
  unlockSpin(address: number): void;
  mailboxPut(peer: number): void;
  mailboxTake(): number;
  replayCheck(state: number, counter: bigint): number;
  replayUpdate(state: number, counter: bigint): void;
  replayReset(state: number): void;
  allowedIpsInit(): void;
  allowedIpNodesNeeded(): number;
  allowedIpInsert(family: number, addr: number, cidr: number, peer: number): number;
  allowedIpRemove(family: number, addr: number, cidr: number, peer: number): number;
  allowedIpRemoveAll(peer: number): void;
  allowedIpLookup(family: number, addr: number): number;
  allowedIpFirst(peer: number): number;
  allowedIpAfter(node: number): number;
  allowedIpRead(node: number, dst: number): void;
  indexInsert(index: number, ref: number): number;
  indexLookup(index: number): number;
  indexReplace(index: number, ref: number): void;
  indexRemove(index: number): void;
  keyTableInit(secret: number): void;
  keyInsert(key: number, peer: number): number;
  keyLookup(key: number): number;
  keyRemove(key: number): void;
  limiterInit(secret: number): void;
  limiterAllow(endpoint: number, now: bigint): number;
  deadlineSet(peer: number, when: bigint): void;
  deadlineRemove(peer: number): void;
  deadlineTop(): number;
  deadlineTopTime(): bigint;
}

/** Fields of the map that tests look at or change, at MAP + offset. */
export const MAP_KEY_BITS = 16;
export const MAP_MAILBOX_BITS = 20;
export const MAP_NODES = 48;
export const MAP_STAGED = 52;
export const MAP_LIMITER = 60;
export const MAP_END = 64;

export type Opened = TestModule<Tables> & { pages: number };

/** A module with its map laid out and nothing else done. */
export function openTables(build: string, maxPeers = 16, maxNodes = 64, threads = 1): Opened {
  const pages = loadTest<Tables>("tables", build).exports.layOut(0, maxPeers, maxNodes, threads);
  const opened = loadTest<Tables>("tables", build, pages);
  if (opened.exports.layOut(opened.exports.MAP.value, maxPeers, maxNodes, threads) !== pages) throw new Error("layOut");
  if (opened.memory.buffer.byteLength !== pages * PAGE_SIZE) throw new Error("memory");
  return { ...opened, pages };
}

/** Numbers 0..n-1 from a seed (Marsaglia's xorshift32): the same in every engine. */
export function seeded(seed: number): (n: number) => number {
  let state = seed >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

export function shuffle<T>(list: T[], random: (n: number) => number): T[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}
