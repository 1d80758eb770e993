// One test: what is sent which way, how long and how fast. The limits hold for what a command line asks for and for what
// a client asks of a server, whoever wrote that client.

import { Fields } from "./fields.ts";

export const KINDS = ["tcp", "udp", "packets", "connections", "tcpLatency", "udpLatency"] as const;
export type Kind = (typeof KINDS)[number];

/** "up" is from the client to the server; "both" is at the same time */
export const DIRECTIONS = ["up", "down", "both"] as const;
export type Direction = (typeof DIRECTIONS)[number];

export interface Plan {
  kind: Kind;
  direction: Direction;
  /** connections, or UDP ports, a direction */
  streams: number;
  ms: number;
  /** bytes of a write, a datagram's payload, a request */
  length: number;
  /** bit/s of payload a direction, all streams together; 0 = as fast as it goes */
  rate: number;
}

export const STREAMS_MAX = 64;
export const SECONDS_MAX = 3600;
export const MS_MIN = 50;
export const RATE_MAX_MBIT = 1_000_000;
/** The header of a datagram is in its payload. */
export const DATAGRAM_LENGTH_MIN = 16;
/** 65,535 less the headers of IPv4 and UDP */
export const DATAGRAM_LENGTH_MAX = 65_507;
export const STREAM_LENGTH_MAX = 1 << 20;

/** UDP: what fits a tunnel's MTU of 1,420 over IPv6, so that nothing is fragmented. */
const DEFAULT_LENGTHS: Record<Kind, number> = {
  tcp: 128 << 10, udp: 1372, packets: 64, connections: 1, tcpLatency: 64, udpLatency: 64,
};
const DEFAULT_UDP_RATE = 100e6;

export function defaultLength(kind: Kind): number {
  return DEFAULT_LENGTHS[kind];
}

/** TCP finds its rate by itself, and small datagrams are there to find the limit: only UDP has one unasked. */
export function defaultRate(kind: Kind): number {
  return kind === "udp" ? DEFAULT_UDP_RATE : 0;
}

export function isDatagram(kind: Kind): boolean {
  return kind === "udp" || kind === "packets" || kind === "udpLatency";
}

/** Whether bytes flow, rather than questions and answers. */
export function isFlow(kind: Kind): boolean {
  return kind === "tcp" || kind === "udp" || kind === "packets";
}

/** @returns the lengths that a kind can have */
export function lengthRange(kind: Kind): [min: number, max: number] {
  return isDatagram(kind) ? [DATAGRAM_LENGTH_MIN, DATAGRAM_LENGTH_MAX] : [1, STREAM_LENGTH_MAX];
}

/** How many streams the server sends on, and how many it receives on. */
export function streamsOf({ direction, streams }: Plan): { up: number; down: number } {
  return { up: direction === "down" ? 0 : streams, down: direction === "up" ? 0 : streams };
}

/** @throws WasmguardError EPROTO naming the field */
export function readPlan(fields: Fields): Plan {
  const kind = fields.oneOf("kind", KINDS);
  return {
    kind,
    direction: fields.oneOf("direction", isFlow(kind) ? DIRECTIONS : ["up"]),
    streams: fields.integer("streams", 1, STREAMS_MAX),
    ms: fields.integer("ms", MS_MIN, SECONDS_MAX * 1000),
    length: fields.integer("length", ...lengthRange(kind)),
    rate: fields.number("rate", 0, RATE_MAX_MBIT * 1e6),
  };
}
