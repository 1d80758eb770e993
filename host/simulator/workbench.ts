// Two peers on a bench, moved by hand: nothing arrives unless it is delivered, time stands still unless it is let pass.
// The page and `wasmguard replay` stand on it.
//
// A bench is its seed and the list of what was done, nothing else: doing the same again gives the same bytes, keys and
// refusals. So undo is doing all but the last, a link holds the list, and a bug report is a link.

import { EVENT_MAX, KEY_LOG } from "../../assembly/abi.ts";
import { Dissector, type Dissection } from "../capture/dissector.ts";
import type { HandshakeKeys, KeyLog } from "../capture/keylog.ts";
import type { Primitives } from "../capture/primitives.ts";
import type { CoreBuild } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { describe, MS, SECOND } from "./message.ts";
import type { NodeEvent, SimNode, TimerName } from "./node.ts";
import { ipv4 } from "./packet.ts";
import { Simulator } from "./simulator.ts";

/** 0 = a, 1 = b */
export type Who = 0 | 1;

/** What can be done; `at` counts the datagrams in flight from 0. */
export type Action =
  /** an inner packet for the other side */
  | { do: "send"; who: Who }
  | { do: "handshake"; who: Who }
  | { do: "deliver"; at: number }
  | { do: "drop"; at: number }
  /** a copy joins the flight, at its end */
  | { do: "repeat"; at: number }
  | { do: "flip"; at: number; bit: number }
  | { do: "wait"; ms: number }
  /** another address */
  | { do: "roam"; who: Who }
  /** another preshared key, on this side alone */
  | { do: "psk"; who: Who }
  /** another private key; the other side is not told */
  | { do: "key"; who: Who }
  /** the wall clock is moved */
  | { do: "clock"; who: Who; seconds: number }
  | { do: "keepalive"; who: Who; seconds: number }
  /** a thousand initiations reach it at once: it is under load for a second */
  | { do: "flood"; who: Who };

/** A datagram on its way. */
export interface Flying {
  from: string;
  to: string;
  bytes: Uint8Array;
  /** what its sender sent, before bits were flipped */
  original: Uint8Array;
  /** flipped bits, in order */
  flipped: number[];
  /** ns */
  sentAt: number;
  /** how many messages were sent before it */
  serial: number;
}

/** What came of an action, for people. */
export interface Outcome {
  action: Action;
  /** ns, when it was over */
  time: number;
  /** refusals, by side: "b: bad_mac1" */
  refused: string[];
  /** "a: handshake_complete" */
  events: string[];
  /** inner packets that came out */
  delivered: string[];
  /** messages sent because of it */
  sent: string[];
}

export interface Side {
  name: string;
  address: string;
  inner: string;
  publicKey: Uint8Array;
  wallOffsetSeconds: number;
  sessions: { previous: boolean; current: boolean; next: boolean };
  /** armed ones, ns from now */
  timers: { name: TimerName; left: number }[];
  drops: Record<string, number>;
  rxBytes: number;
  txBytes: number;
  staged: number;
  endpoint: string;
}

export const TIMERS: TimerName[] = ["retransmitHandshake", "sendKeepalive", "newHandshake", "zeroKeyMaterial", "sendPersistentKeepalive"];

/** more than anybody does by hand, and little enough to do again at once */
export const ACTIONS_MAX = 2000;
export const FLIGHT_MAX = 256;
const WAIT_MAX_MS = 1_000_000;
const FLOOD_COUNT = 1024;
const BATCH = 64;
const INITIATION_LEN = 148;

interface Message {
  bytes: Uint8Array;
  serial: number;
}

export class Workbench {
  readonly seed: number;
  readonly actions: Action[] = [];
  readonly history: Outcome[] = [];
  readonly sim: Simulator;
  readonly nodes: [SimNode, SimNode];
  flight: Flying[] = [];
  /** everything that was sent, as it was sent */
  readonly sent: Message[] = [];
  readonly #crypto: Primitives;
  readonly #peers: [number, number];
  readonly #keys: HandshakeKeys[] = [];
  readonly #presharedKeys: [Uint8Array, Uint8Array];
  /** of the nodes, at first */
  readonly #wallOffsets: number[];
  #ports = 1;
  #packets = 0;

  /** @param build  prepared with prepareBuild */
  constructor(crypto: Primitives, build: CoreBuild, seed = 1) {
    this.seed = seed;
    this.#crypto = crypto;
    this.sim = new Simulator({ build, seed, keepTrace: true });
    const presharedKey = this.sim.stream("preshared key").bytes(32);
    this.#presharedKeys = [presharedKey, presharedKey];
    this.nodes = [this.sim.node(), this.sim.node()];
    const [a, b] = this.nodes;
    this.#wallOffsets = this.nodes.map((node) => node.wallOffset);
    this.#peers = this.sim.connect(a, b, { presharedKey });
    for (const { core } of this.nodes) core.exports.deviceSetKeyLog(1);
    this.sim.wire.hook = (datagram, time) => {
      this.#takeKeys();
      const { from, to, bytes } = datagram;
      const serial = this.sent.push({ bytes, serial: this.sent.length }) - 1;
      this.flight.push({ from, to, bytes, original: bytes, flipped: [], sentAt: time, serial });
      return [];
    };
  }

  /**
   * Does one thing more.
   * @throws WasmguardError ERR_ACTION for what cannot be done; nothing has changed then
   */
  do(action: Action): Outcome {
    this.#check(action);
    const before = this.nodes.map((node) => node.drops());
    const events = this.nodes.map((node) => node.events.length);
    const delivered = this.nodes.map((node) => node.delivered!.length);
    const sent = this.sent.length;
    this.#perform(action);
    this.#takeKeys();
    this.actions.push(action);
    const perSide = <T>(list: (node: SimNode, who: number) => T[], text: (item: T) => string): string[] =>
      this.nodes.flatMap((node, who) => list(node, who).map((item) => `${node.name}: ${text(item)}`));
    const outcome: Outcome = {
      action,
      time: this.sim.now(),
      refused: perSide(
        (node, who) => Object.entries(node.drops()).map(([reason, count]) => [reason, count - (before[who][reason] ?? 0)] as const).filter(([, count]) => count > 0),
        ([reason, count]) => (count === 1 ? reason : `${reason} (${count})`),
      ),
      events: perSide((node, who) => node.events.slice(events[who]).filter(({ what }) => what !== "ephemeral"), eventText),
      delivered: perSide((node, who) => node.delivered!.slice(delivered[who]), ({ packet }) => `${packet.length} bytes`),
      sent: this.sent.slice(sent).map(({ bytes }) => describe(bytes)),
    };
    this.history.push(outcome);
    return outcome;
  }

  /** What both sides look like now. */
  sides(): Side[] {
    const now = this.sim.now();
    return this.nodes.map((node, who) => {
      const peer = this.#peers[who];
      const { sessions, rxBytes, txBytes, staged, endpoint } = node.info(peer);
      return {
        name: node.name, address: node.address, inner: node.inner, publicKey: node.publicKey, rxBytes, txBytes, staged, endpoint,
        wallOffsetSeconds: Math.round((node.wallOffset - this.#wallOffsets[who]) / SECOND),
        sessions: { previous: (sessions & 1) !== 0, current: (sessions & 2) !== 0, next: (sessions & 4) !== 0 },
        timers: TIMERS.map((name) => ({ name, left: node.timer(peer, name) - now })).filter(({ left }) => Number.isFinite(left)),
        drops: node.drops(),
      };
    });
  }

  /** When the next timer fires, ns from now; Infinity = none is armed. */
  nextTimer(): number {
    return this.sim.next() - this.sim.now();
  }

  /** A message taken apart with the keys of both sides, as whoever reads along from the beginning sees it. */
  dissect(flying: { bytes: Uint8Array; serial: number }): Dissection {
    const dissector = new Dissector(this.#crypto, this.#keyLog());
    for (const message of this.sent) {
      if (message.serial >= flying.serial) break;
      if (message.bytes.length !== 0 && message.bytes[0] < 3) dissector.dissect(message.bytes);
    }
    return dissector.dissect(flying.bytes);
  }

  #check(action: Action): void {
    const refuse = (why: string): never => {
      throw new WasmguardError("ERR_ACTION", `Cannot ${action.do}: ${why}`);
    };
    if (this.actions.length >= ACTIONS_MAX) refuse(`${ACTIONS_MAX} things were done already`);
    if ("at" in action) {
      const flying = this.flight[action.at];
      if (!flying) refuse(`${this.flight.length} datagrams are in flight, and none is number ${action.at}`);
      if (action.do === "flip" && !(action.bit < flying.bytes.length * 8)) refuse(`bit ${action.bit} is not in 0..${flying.bytes.length * 8 - 1}`);
      if (action.do === "repeat" && this.flight.length >= FLIGHT_MAX) refuse(`${FLIGHT_MAX} datagrams are in flight already`);
    }
    if (action.do === "wait" && !(action.ms > 0 && action.ms <= WAIT_MAX_MS)) refuse(`${action.ms} ms is not in 1..${WAIT_MAX_MS}`);
    if (action.do === "keepalive" && !(action.seconds >= 0 && action.seconds <= 65535)) refuse(`${action.seconds} s is not in 0..65535`);
    if (action.do === "clock" && !(Math.abs(action.seconds) <= 1e8)) refuse(`${action.seconds} s is too far`);
  }

  #perform(action: Action): void {
    const { sim, nodes, flight } = this;
    switch (action.do) {
      case "send": {
        const [from, to] = [nodes[action.who], nodes[1 - action.who]];
        from.send(ipv4(from.inner, to.inner, 84, ++this.#packets & 255));
        break;
      }
      case "handshake":
        nodes[action.who].handshake(this.#peers[action.who]);
        break;
      case "deliver": {
        const [{ from, to, bytes }] = flight.splice(action.at, 1);
        sim.arrive({ from, to, bytes, tos: 0 });
        break;
      }
      case "drop":
        flight.splice(action.at, 1);
        break;
      case "repeat":
        flight.push({ ...flight[action.at], flipped: [...flight[action.at].flipped] });
        break;
      case "flip": {
        const flying = flight[action.at];
        const bytes = flying.bytes.slice();
        bytes[action.bit >> 3] ^= 1 << (action.bit & 7);
        flight[action.at] = { ...flying, bytes, flipped: [...flying.flipped, action.bit] };
        break;
      }
      case "wait":
        sim.run(action.ms * MS);
        break;
      case "roam":
        sim.move(nodes[action.who], `203.0.113.${action.who + 1}:${40_000 + this.#ports++}`);
        break;
      case "psk":
        this.#presharedKeys[action.who] = sim.stream(`preshared key ${this.actions.length}`).bytes(32);
        nodes[action.who].setPresharedKey(this.#peers[action.who], this.#presharedKeys[action.who]);
        break;
      case "key":
        nodes[action.who].setPrivateKey(sim.stream(`key ${this.actions.length}`).bytes(32));
        break;
      case "clock":
        nodes[action.who].wallOffset += action.seconds * SECOND;
        break;
      case "keepalive":
        nodes[action.who].setKeepalive(this.#peers[action.who], action.seconds);
        break;
      case "flood":
        this.#flood(nodes[action.who]);
        break;
    }
    // What is due at this very instant, as a host would do it.
    sim.step(sim.now());
  }

  // Initiations of nobody: they fill the queue before the device looks at the first.
  #flood(node: SimNode): void {
    const junk = this.sim.stream(`flood ${this.actions.length}`);
    node.automatic = false;
    for (let sent = 0; sent < FLOOD_COUNT; sent += BATCH) {
      const batch = Array.from({ length: BATCH }, () => {
        const bytes = junk.bytes(INITIATION_LEN);
        bytes.set([1, 0, 0, 0]);
        return { bytes, from: "198.51.100.99:9" };
      });
      node.receive(...batch);
    }
    node.automatic = true;
    node.service();
  }

  #takeKeys(): void {
    this.nodes.forEach((node, who) => {
      const { u8 } = node.core;
      for (let slot = 0; slot < EVENT_MAX; slot++) {
        const at = KEY_LOG + slot * 32;
        const key = u8.slice(at, at + 32);
        if (key.every((byte) => byte === 0)) continue;
        u8.fill(0, at, at + 32);
        this.#keys.push({
          localStaticPrivate: node.privateKey, remoteStaticPublic: this.nodes[1 - who].publicKey,
          localEphemeralPrivate: key, presharedKey: this.#presharedKeys[who],
        });
      }
    });
  }

  #keyLog(): KeyLog {
    return {
      staticPrivate: [...this.#keys.map((keys) => keys.localStaticPrivate), ...this.nodes.map((node) => node.privateKey)],
      staticPublic: this.#keys.map((keys) => keys.remoteStaticPublic),
      ephemerals: this.#keys.map((keys) => ({ privateKey: keys.localEphemeralPrivate, presharedKey: keys.presharedKey })),
    };
  }
}

function eventText({ what, argument }: NodeEvent): string {
  return what === "initiation_sent" && argument > 1 ? `${what} (attempt ${argument})` : what;
}

// --- as text: for links and files -----------------------------------------------------------------------------------------

const LETTERS: Record<Action["do"], string> = {
  send: "s", handshake: "h", deliver: "d", drop: "x", repeat: "r", flip: "f", wait: "w", roam: "m", psk: "p", key: "k", clock: "c",
  keepalive: "a", flood: "l",
};
const NAMES = new Map(Object.entries(LETTERS).map(([name, letter]) => [letter, name as Action["do"]]));

/** "s0.d0.f1-37.w5000": a letter and its numbers for each action. */
export function formatActions(actions: readonly Action[]): string {
  return actions
    .map((action) => {
      const numbers = [];
      if ("who" in action) numbers.push(action.who);
      if ("at" in action) numbers.push(action.at);
      if ("bit" in action) numbers.push(action.bit);
      if ("ms" in action) numbers.push(action.ms);
      if ("seconds" in action) numbers.push(action.seconds);
      return LETTERS[action.do] + numbers.map((number) => (number < 0 ? `n${-number}` : number)).join("-");
    })
    .join(".");
}

/** @throws WasmguardError ERR_ACTION that names the one that is wrong */
export function parseActions(text: string): Action[] {
  if (text === "") return [];
  const parts = text.split(".");
  if (parts.length > ACTIONS_MAX) throw new WasmguardError("ERR_ACTION", `${parts.length} actions: ${ACTIONS_MAX} are the most`);
  return parts.map((part, i) => {
    const name = NAMES.get(part[0]);
    const numbers = /^[a-z]n?\d{1,9}(-n?\d{1,9})?$/.test(part) ? part.slice(1).split("-").map((number) => Number(number.replace("n", "-"))) : [NaN];
    const wrong = new WasmguardError("ERR_ACTION", `Action ${i + 1}, "${part.slice(0, 20)}", cannot be read`);
    const [first, second] = numbers;
    if (!name || Number.isNaN(first)) throw wrong;
    const takesTwo = name === "flip" || name === "clock" || name === "keepalive";
    if (numbers.length !== (takesTwo ? 2 : 1)) throw wrong;
    if (name === "wait") return { do: name, ms: first };
    if (name === "flip") return { do: name, at: first, bit: second };
    if (name === "deliver" || name === "drop" || name === "repeat") return { do: name, at: first };
    if (first !== 0 && first !== 1) throw wrong;
    if (name === "clock" || name === "keepalive") return { do: name, who: first, seconds: second };
    return { do: name, who: first };
  });
}

/** A bench where all of it was done. @throws WasmguardError ERR_ACTION that names the action that cannot be */
export function buildBench(crypto: Primitives, build: CoreBuild, seed: number, actions: readonly Action[]): Workbench {
  const bench = new Workbench(crypto, build, seed);
  actions.forEach((action, i) => {
    try {
      bench.do(action);
    } catch (error) {
      if (error instanceof WasmguardError) throw new WasmguardError(error.code, `Action ${i + 1}: ${error.message}`, { cause: error });
      throw error;
    }
  });
  return bench;
}
