// Two devices that know each other, joined by whatever carries their datagrams, and what each takes in.
import assert from "node:assert/strict";
import { compileCore } from "../../host/core.ts";
import { generatePresharedKey, generatePrivateKey } from "../../host/keys.ts";
import { createPeerChange } from "../../host/model.ts";
import type { InPacket, OutPacket } from "../../host/netstack/types.ts";
import type { PortableDevice, PortableOptions } from "../../host/portable.ts";
import { parsePrefix } from "../../host/ip.ts";
import type { Stream } from "../../host/simulator/random.ts";
import {
  type Bytes, buildPartial, type Fields, GSO_NONE, gsoType, headersLength, NEEDS_CSUM, randomFields, superPacket, transportOffset,
} from "../offload/oracle.ts";

export type Open = (options: PortableOptions) => Promise<PortableDevice>;

export const LEFT4 = Uint8Array.of(10, 0, 0, 1);
export const RIGHT4 = Uint8Array.of(10, 0, 0, 2);
export const LEFT6 = Uint8Array.from([0xfd, ...Array(14).fill(0), 1]);
export const RIGHT6 = Uint8Array.from([0xfd, ...Array(14).fill(0), 2]);

export interface Side {
  device: PortableDevice;
  /** packets as the device gave them, copied */
  came: (InPacket & { at: number })[];
  /** what to do with each besides */
  onInput: (packet: InPacket) => void;
}

export interface Pair {
  left: Side;
  right: Side;
  close(): Promise<unknown>;
}

let compiled: Promise<WebAssembly.Module> | undefined;

/** Opens both and lets each know the other; the handshake is left to the first packet. */
export async function openPair(open: Open, options: PortableOptions = {}): Promise<Pair> {
  compiled ??= compileCore();
  const module = await compiled;
  const left = await openSide(open, { ...options, module });
  const right = await openSide(open, { ...options, module });
  const presharedKey = generatePresharedKey();
  for (const { device } of [left, right]) {
    await device.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
    await device.up();
  }
  await know(left.device, right.device, presharedKey, ["10.0.0.2/32", "fd00::2/128"]);
  await know(right.device, left.device, presharedKey, ["10.0.0.1/32", "fd00::1/128"]);
  return { left, right, close: () => Promise.all([left, right].map(({ device }) => device.close())) };
}

async function openSide(open: Open, options: PortableOptions): Promise<Side> {
  const side: Side = { device: undefined as unknown as PortableDevice, came: [], onInput: () => {} };
  side.device = await open({
    ...options,
    onInput: (packet) => {
      side.came.push({ ...packet, bytes: packet.bytes.slice(), at: side.came.length });
      side.onInput(packet);
    },
  });
  return side;
}

async function know(device: PortableDevice, other: PortableDevice, presharedKey: Bytes, prefixes: string[]): Promise<void> {
  const peer = {
    ...createPeerChange(other.device.publicKey!),
    presharedKey,
    endpoint: { family: 4 as const, address: Uint8Array.of(127, 0, 0, 1), port: other.listenPort, scope: 0 },
    allowedIps: prefixes.map((text) => ({ ip: parsePrefix(text), remove: false })),
  };
  await device.configure({ replacePeers: false, peers: [peer] });
}

/** Resolves when `done` says so, looking again after every turn of the event loop. */
export async function until(done: () => boolean, what: string, patienceMs = 10_000): Promise<void> {
  const begun = performance.now();
  while (!done()) {
    assert.ok(performance.now() - begun < patienceMs, `waited ${patienceMs} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A packet from one side to the other, of random fields. */
export function between(random: Stream, isToRight: boolean, version: 4 | 6, protocol: number, payload: number): Fields {
  const [left, right] = version === 4 ? [LEFT4, RIGHT4] : [LEFT6, RIGHT6];
  const fields = randomFields(random, { version, protocol, payload });
  return {
    ...fields, source: isToRight ? left : right, destination: isToRight ? right : left,
    tos: fields.tos & ~3, // CE is changed on the way, and that is right
  };
}

/** The same packet as a stack hands it over: payload in pieces of random lengths, checksum left to the link. */
export function toOutPacket(random: Stream, fields: Fields, gsoSize: number): OutPacket {
  const packet = buildPartial(fields);
  const header = packet.slice(0, headersLength(fields));
  const payload: Bytes[] = [];
  for (let at = header.length; at < packet.length; ) {
    const end = Math.min(packet.length, at + 1 + random.below(20_000));
    payload.push(packet.subarray(at, end));
    at = end;
  }
  return { header, payload, gsoSize, checksumStart: transportOffset(fields) };
}

/** What came in, with the virtio header that it stood behind, as the oracle's expand() wants it. */
export function withHeader({ bytes, gsoSize, checksumVerified }: InPacket, parse: (bytes: Bytes) => Fields): Bytes {
  if (gsoSize === 0) return Uint8Array.from([checksumVerified ? 2 : 0, GSO_NONE, ...Array(8).fill(0), ...bytes]);
  const fields = parse(bytes);
  const { header } = superPacket(fields, gsoSize);
  assert.equal(header[0], NEEDS_CSUM);
  assert.equal(header[1], gsoType(fields));
  return Uint8Array.from([...header, ...bytes]);
}
