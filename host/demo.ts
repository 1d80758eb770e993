// npm start: a real tunnel on this machine with no privileges. Two devices in one process, each with a UDP port on the
// loopback interface, a handshake between them, pings through the tunnel, then bulk data as fast as one thread seals
// and opens it.

import process from "node:process";
import { EVENT_HANDSHAKE_COMPLETE } from "../assembly/abi.ts";
import { compileCore, pickBuild } from "./core.ts";
import { encodeBase64Key, generatePresharedKey, generatePrivateKey } from "./keys.ts";
import { createPeerChange, type PeerState } from "./model.ts";
import { openPortable, type PortableDevice } from "./portable.ts";

const PINGS = 10;
const PING_INTERVAL_MS = 200;
const PING_TIMEOUT_MS = 1000;
const BULK_MS = 10_000;
const PACKET_LEN = 1420;
/** bulk packets sent and not yet seen on the other side: few enough for the default socket buffer */
const WINDOW = 64;
const BATCH = 32;

const LEFT = Uint8Array.of(10, 0, 0, 1);
const RIGHT = Uint8Array.of(10, 0, 0, 2);
const LOOPBACK = "127.0.0.1";

const isTerminal = process.stdout.isTTY === true;
const style = (code: number) => (text: string) => (isTerminal ? `\x1b[${code}m${text}\x1b[0m` : text);
const [bold, dim, green] = [1, 2, 32].map(style);

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Ones' complement sum, RFC 1071. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** An IPv4 packet, RFC 791. */
function ipv4(protocol: number, source: Uint8Array, destination: Uint8Array, payload: Uint8Array): Uint8Array {
  const packet = new Uint8Array(20 + payload.length);
  const view = new DataView(packet.buffer);
  packet.set([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol]);
  view.setUint16(2, packet.length);
  packet.set(source, 12);
  packet.set(destination, 16);
  view.setUint16(10, checksum(packet.subarray(0, 20)));
  packet.set(payload, 20);
  return packet;
}

const ICMP = 1;
const UDP = 17;
const ECHO_REQUEST = 8;
const ECHO_REPLY = 0;

/** An ICMP echo message with 56 bytes of data, as ping sends it, RFC 792. */
function echo(type: number, sequence: number): Uint8Array {
  const message = new Uint8Array(64);
  const view = new DataView(message.buffer);
  message[0] = type;
  view.setUint16(4, process.pid & 0xffff);
  view.setUint16(6, sequence);
  view.setUint16(2, checksum(message));
  return message;
}

const waiting = new Map<number, () => void>();
let bulkPackets = 0;

/** The right side: answers echo requests, counts bulk data. */
function atRight(packet: Uint8Array): void {
  if (packet[9] === UDP) bulkPackets++;
  else if (packet[9] === ICMP && packet[20] === ECHO_REQUEST) {
    right.send(ipv4(ICMP, RIGHT, LEFT, echo(ECHO_REPLY, (packet[26] << 8) | packet[27])));
  }
}

/** The left side: takes echo replies. */
function atLeft(packet: Uint8Array): void {
  if (packet[9] === ICMP && packet[20] === ECHO_REPLY) waiting.get((packet[26] << 8) | packet[27])?.();
}

async function ping(sequence: number): Promise<number> {
  const begun = performance.now();
  const answered = new Promise<void>((resolve) => waiting.set(sequence, resolve));
  left.send(ipv4(ICMP, LEFT, RIGHT, echo(ECHO_REQUEST, sequence)));
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`ping ${sequence}: no answer in ${PING_TIMEOUT_MS} ms`)), PING_TIMEOUT_MS);
  });
  await Promise.race([answered, late]);
  clearTimeout(timer);
  waiting.delete(sequence);
  return performance.now() - begun;
}

function live(line: string): void {
  if (isTerminal) process.stdout.write(`\r\x1b[2K${line}`);
}

function say(line: string): void {
  process.stdout.write(isTerminal ? `\r\x1b[2K${line}\n` : `${line}\n`);
}

const mebibytes = (bytes: bigint | number): string => `${(Number(bytes) / 2 ** 20).toFixed(1)} MiB`;
const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1];

const module = await compileCore();
let completed: (() => void) | undefined;
const handshake = new Promise<void>((resolve) => (completed = resolve));
const left: PortableDevice = await openPortable({
  address: LOOPBACK, module, onPacket: atLeft,
  onEvent: ({ type }) => type === EVENT_HANDSHAKE_COMPLETE && completed!(),
});
const right: PortableDevice = await openPortable({ address: LOOPBACK, module, onPacket: atRight });

async function connect(): Promise<void> {
  const presharedKey = generatePresharedKey();
  await left.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  await right.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  await left.up();
  await right.up();
  const peer = (device: PortableDevice, address: Uint8Array, port?: number) => ({
    ...createPeerChange(device.device.publicKey!),
    presharedKey,
    endpoint: port ? { family: 4 as const, address: Uint8Array.of(127, 0, 0, 1), port, scope: 0 } : undefined,
    allowedIps: [{ ip: { family: 4 as const, address, cidr: 32 }, remove: false }],
  });
  // Only the left side knows where the other is; the right one learns it from the handshake.
  await left.configure({ replacePeers: false, peers: [peer(right, RIGHT, right.listenPort)] });
  await right.configure({ replacePeers: false, peers: [peer(left, LEFT)] });
}

async function bulk(): Promise<number> {
  const packet = ipv4(UDP, LEFT, RIGHT, new Uint8Array(PACKET_LEN - 20));
  const batch = Array<Uint8Array>(BATCH).fill(packet);
  const begun = performance.now();
  let sent = 0;
  let shown = begun;
  let shownPackets = 0;
  let stalledSince = 0;
  while (performance.now() - begun < BULK_MS) {
    if (sent - bulkPackets < WINDOW) {
      left.send(...batch);
      sent += BATCH;
      stalledSince = 0;
    } else {
      // Loopback loses nothing but what does not fit a socket's buffer; should it, the window must not stay shut.
      stalledSince ||= performance.now();
      if (performance.now() - stalledSince > 200) sent = bulkPackets;
    }
    await turn();
    const now = performance.now();
    if (now - shown >= 500) {
      const rate = ((bulkPackets - shownPackets) * PACKET_LEN * 8) / ((now - shown) * 1000);
      const rest = Math.max(0, Math.ceil((BULK_MS - (now - begun)) / 1000));
      live(`  bulk data    ${bold(`${rate.toFixed(0).padStart(5)} Mbit/s`)}  ${mebibytes(bulkPackets * PACKET_LEN)}  ${dim(`${rest} s`)}`);
      shown = now;
      shownPackets = bulkPackets;
    }
  }
  return (bulkPackets * PACKET_LEN * 8) / ((performance.now() - begun) * 1000);
}

function counters(name: string, device: PortableDevice): void {
  const peer: PeerState = device.state().peers[0];
  const drops = Object.entries(device.device.drops()).map(([reason, count]) => `${reason} ${count}`);
  const dropped = drops.length ? drops.join(", ") : "nothing dropped";
  say(`  ${name.padEnd(12)} sent ${mebibytes(peer.txBytes)}, received ${mebibytes(peer.rxBytes)}, ${dropped}`);
}

try {
  await connect();
  const runtime = "Deno" in globalThis ? "Deno" : "Node";
  say(bold("wasmguard: a WireGuard tunnel through this machine's loopback, no privileges"));
  say(dim(`  ${runtime} ${process.version}, core "${pickBuild()}", one thread for both ends`));
  for (const [name, device] of [["left", left], ["right", right]] as const) {
    say(`  ${name.padEnd(12)} ${encodeBase64Key(device.device.publicKey!)}  ${dim(`${LOOPBACK}:${device.listenPort}`)}`);
  }
  const begun = performance.now();
  const first = ping(0);
  await handshake;
  say(`  handshake    ${bold(`${(performance.now() - begun).toFixed(1)} ms`)}  ${dim("Noise_IKpsk2, with a preshared key")}`);
  await first;
  const times: number[] = [];
  for (let sequence = 1; sequence <= PINGS; sequence++) {
    times.push(await ping(sequence));
    live(`  ping         ${times.at(-1)!.toFixed(2)} ms  ${dim(`${sequence}/${PINGS}`)}`);
    await sleep(PING_INTERVAL_MS);
  }
  say(`  ping         ${bold(`${median(times).toFixed(2)} ms`)}  ${dim(`median of ${PINGS}, ${Math.min(...times).toFixed(2)} to ${Math.max(...times).toFixed(2)}`)}`);
  const rate = await bulk();
  say(`  bulk data    ${bold(`${rate.toFixed(0)} Mbit/s`)}  ${dim(`${mebibytes(bulkPackets * PACKET_LEN)} in packets of ${PACKET_LEN} bytes`)}`);
  await sleep(50);
  counters("left", left);
  counters("right", right);
  say(green("  done") + dim("  as a daemon: npm start -- wg0, then wg and wg-quick as ever"));
} catch (error) {
  say(`wasmguard: ${(error as Error).message}`);
  process.exitCode = 1;
} finally {
  left.close();
  right.close();
}
