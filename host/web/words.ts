// What happens on a bench, in words.

import { describe } from "../simulator/message.ts";
import type { Action, Who, Workbench } from "../simulator/workbench.ts";

const NAMES = ["a", "b"] as const;

/** The simulator's clock at the beginning. */
export const START_NS = 1000e9;

export function formatSeconds(ns: number): string {
  const seconds = ns / 1e9;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 100) return `${Number(seconds.toFixed(seconds < 10 ? 3 : 2))} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** Whose address it is, or was before it moved: both numbers end in 1 and 2. */
export function sideOf(bench: Workbench, address: string): Who {
  if (address === bench.nodes[0].address) return 0;
  return address !== bench.nodes[1].address && /\.1:\d+$/.test(address) ? 0 : 1;
}

export function arrow(from: Who): string {
  return from === 0 ? "a → b" : "b → a";
}

const NOUNS: Record<string, string> = {
  initiation: "initiation",
  response: "response",
  cookie: "cookie reply",
  data: "data message",
  keepalive: "keepalive",
};

export function describeAction(bench: Workbench, action: Action): string {
  const flying = "at" in action ? bench.flight[action.at] : undefined;
  const message = flying
    ? `the ${NOUNS[describe(flying.bytes)] ?? "damaged message"} ${arrow(sideOf(bench, flying.from))}`
    : "a message";
  const who = "who" in action ? NAMES[action.who] : "";
  switch (action.do) {
    case "send":
      return `${who} has a packet to send.`;
    case "handshake":
      return `${who} begins a handshake.`;
    case "deliver":
      return `You deliver ${message}.`;
    case "drop":
      return `You drop ${message}.`;
    case "repeat":
      return `You copy ${message}.`;
    case "flip":
      return `You flip bit ${action.bit & 7} of byte ${action.bit >> 3} in ${message}.`;
    case "wait":
      return `${formatSeconds(action.ms * 1e6)} pass.`;
    case "roam":
      return `${who} moves to another address.`;
    case "psk":
      return `${who} gets another preshared key; the other side does not know.`;
    case "key":
      return `${who} gets another private key; the other side does not know.`;
    case "clock":
      return `The clock of ${who} is set ${action.seconds < 0 ? "back" : "forward"} by ${Math.abs(action.seconds)} s.`;
    case "keepalive":
      return action.seconds
        ? `${who} is to send a keepalive every ${action.seconds} s.`
        : `${who} is to send no persistent keepalives.`;
    case "flood":
      return `A thousand initiations of nobody reach ${who} at once.`;
  }
}
