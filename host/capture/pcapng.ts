// Capture files: pcapng written (draft-ietf-opsawg-pcapng), pcapng and the older pcap read. Pure: bytes in, bytes out.
//
// What we write: raw IP packets (LINKTYPE_RAW), times in nanoseconds, and the key log in Decryption Secrets Blocks, so
// that one file says everything. What we read: Ethernet, raw IP, loopback and Linux cooked captures, both byte orders,
// any block that we do not know skipped by its length, which is checked before it is believed.

import { WasmguardError } from "../errors.ts";
import { join } from "../netstack/bytes.ts";

const SECTION = 0x0a0d0d0a;
const INTERFACE = 1;
const SIMPLE_PACKET = 3;
const ENHANCED_PACKET = 6;
const DECRYPTION_SECRETS = 10;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
/** Type of decryption secrets: a WireGuard key log ("WGKL"). */
export const SECRETS_WIREGUARD = 0x57474b4c;

export const LINKTYPE_NULL = 0;
export const LINKTYPE_ETHERNET = 1;
export const LINKTYPE_RAW = 101;
export const LINKTYPE_LOOP = 108;
export const LINKTYPE_LINUX_SLL = 113;
export const LINKTYPE_IPV4 = 228;
export const LINKTYPE_IPV6 = 229;
export const LINKTYPE_LINUX_SLL2 = 276;

/** Bytes of a block at most: no honest capture has more in one packet, and a lying length must not eat the memory. */
const BLOCK_MAX_LEN = 1 << 24;

const OPTION_TSRESOL = 9;
const OPTION_APPLICATION = 4;

function block(type: number, ...parts: Uint8Array[]): Uint8Array {
  const body = join(parts);
  const total = 12 + Math.ceil(body.length / 4) * 4;
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, total, true);
  view.setUint32(total - 4, total, true);
  bytes.set(body, 8);
  return bytes;
}

function words(...values: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 4));
  values.forEach((value, i) => view.setUint32(i * 4, value, true));
  return new Uint8Array(view.buffer);
}

function option(code: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + Math.ceil(value.length / 4) * 4);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, code, true);
  view.setUint16(2, value.length, true);
  bytes.set(value, 4);
  return bytes;
}

/** The beginning of a file: one section, one interface of raw IP packets, nanoseconds. */
export function fileHeader(application: string): Uint8Array {
  const end = words(0);
  const section = block(
    SECTION, words(BYTE_ORDER_MAGIC, 1, 0xffffffff, 0xffffffff), option(OPTION_APPLICATION, new TextEncoder().encode(application)), end,
  );
  const link = block(INTERFACE, words(LINKTYPE_RAW, 0), option(OPTION_TSRESOL, Uint8Array.of(9)), end);
  return join([section, link]);
}

/** Key log lines, for the packets that come after. */
export function secretsBlock(keyLog: string): Uint8Array {
  const text = new TextEncoder().encode(keyLog);
  return block(DECRYPTION_SECRETS, words(SECRETS_WIREGUARD, text.length), text);
}

/** @param nanoseconds  Unix time */
export function packetBlock(packet: Uint8Array, nanoseconds: bigint): Uint8Array {
  const high = Number(nanoseconds >> 32n);
  const low = Number(nanoseconds & 0xffffffffn);
  return block(ENHANCED_PACKET, words(0, high, low, packet.length, packet.length), packet);
}

/** What a capture file holds, in order. */
export type CaptureItem =
  | { type: "packet"; bytes: Uint8Array; linkType: number; nanoseconds: bigint; truncated: boolean }
  | { type: "secrets"; kind: number; text: string };

const refuse = (why: string): WasmguardError => new WasmguardError("ERR_CAPTURE", `Capture file: ${why}`);

/**
 * Reads a whole capture file, pcap or pcapng.
 * @throws WasmguardError ERR_CAPTURE with the offset of what cannot be; items before it have been given
 */
export function* readCapture(file: Uint8Array): Generator<CaptureItem> {
  if (file.length < 4) throw refuse(`${file.length} bytes are no capture`);
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const magic = view.getUint32(0, true);
  if (magic === SECTION) yield* readPcapng(file, view);
  else yield* readPcap(file, view, magic);
}

// --- pcap (draft-ietf-opsawg-pcap) ---------------------------------------------------------------------------------------

const PCAP_MAGICS = new Map<number, { little: boolean; scale: bigint }>([
  [0xa1b2c3d4, { little: true, scale: 1000n }],
  [0xa1b23c4d, { little: true, scale: 1n }],
  [0xd4c3b2a1, { little: false, scale: 1000n }],
  [0x4d3cb2a1, { little: false, scale: 1n }],
]);

function* readPcap(file: Uint8Array, view: DataView, magic: number): Generator<CaptureItem> {
  const form = PCAP_MAGICS.get(magic);
  if (!form) throw refuse("it begins like neither pcap nor pcapng");
  if (file.length < 24) throw refuse("it ends in its first header");
  const linkType = view.getUint32(20, form.little) & 0xffff;
  for (let at = 24; at < file.length; ) {
    if (at + 16 > file.length) throw refuse(`it ends in a packet header, at byte ${at}`);
    const seconds = BigInt(view.getUint32(at, form.little));
    const fraction = BigInt(view.getUint32(at + 4, form.little));
    const length = view.getUint32(at + 8, form.little);
    const original = view.getUint32(at + 12, form.little);
    if (length > file.length - at - 16) throw refuse(`the packet at byte ${at} says ${length} bytes, and the file ends before`);
    yield {
      type: "packet", bytes: file.subarray(at + 16, at + 16 + length), linkType,
      nanoseconds: seconds * 1_000_000_000n + fraction * form.scale, truncated: original > length,
    };
    at += 16 + length;
  }
}

// --- pcapng ------------------------------------------------------------------------------------------------------------------

interface Interface {
  linkType: number;
  snapLen: number;
  /** ticks of the time stamp in a second */
  ticks: bigint;
}

function* readPcapng(file: Uint8Array, view: DataView): Generator<CaptureItem> {
  let little = true;
  let interfaces: Interface[] = [];
  for (let at = 0; at < file.length; ) {
    if (at + 12 > file.length) throw refuse(`it ends in a block header, at byte ${at}`);
    if (view.getUint32(at, true) === SECTION) {
      const order = view.getUint32(at + 8, true);
      if (order !== BYTE_ORDER_MAGIC && order !== 0x4d3c2b1a) throw refuse(`the section at byte ${at} has no byte order`);
      little = order === BYTE_ORDER_MAGIC;
      interfaces = [];
    }
    const type = view.getUint32(at, little);
    const total = view.getUint32(at + 4, little);
    if (total < 12 || total % 4 !== 0 || total > BLOCK_MAX_LEN) throw refuse(`the block at byte ${at} says ${total} bytes`);
    if (total > file.length - at) throw refuse(`the block at byte ${at} says ${total} bytes, and the file ends before`);
    const item = readBlock(file, view, at, total, type, little, interfaces);
    if (item) yield item;
    at += total;
  }
}

function readBlock(
  file: Uint8Array, view: DataView, at: number, total: number, type: number, little: boolean, interfaces: Interface[],
): CaptureItem | null {
  const body = at + 8;
  const end = at + total - 4;
  const need = (bytes: number): void => {
    if (end - body < bytes) throw refuse(`the block at byte ${at} is too short for its type`);
  };
  switch (type) {
    case INTERFACE: {
      need(8);
      const ticks = readResolution(file, view, body + 8, end, little);
      interfaces.push({ linkType: view.getUint16(body, little), snapLen: view.getUint32(body + 4, little), ticks });
      return null;
    }
    case ENHANCED_PACKET: {
      need(20);
      const source = interfaces[view.getUint32(body, little)];
      if (!source) throw refuse(`the packet at byte ${at} belongs to no interface`);
      const time = (BigInt(view.getUint32(body + 4, little)) << 32n) | BigInt(view.getUint32(body + 8, little));
      const length = view.getUint32(body + 12, little);
      if (length > end - body - 20) throw refuse(`the packet at byte ${at} says ${length} bytes, and its block ends before`);
      return {
        type: "packet", bytes: file.subarray(body + 20, body + 20 + length), linkType: source.linkType,
        nanoseconds: (time * 1_000_000_000n) / source.ticks, truncated: view.getUint32(body + 16, little) > length,
      };
    }
    case SIMPLE_PACKET: {
      need(4);
      if (!interfaces[0]) throw refuse(`the packet at byte ${at} belongs to no interface`);
      const original = view.getUint32(body, little);
      const length = Math.min(original, interfaces[0].snapLen || original, end - body - 4);
      return {
        type: "packet", bytes: file.subarray(body + 4, body + 4 + length), linkType: interfaces[0].linkType, nanoseconds: 0n,
        truncated: length < original,
      };
    }
    case DECRYPTION_SECRETS: {
      need(8);
      const length = view.getUint32(body + 4, little);
      if (length > end - body - 8) throw refuse(`the secrets at byte ${at} say ${length} bytes, and their block ends before`);
      const text = new TextDecoder().decode(file.slice(body + 8, body + 8 + length));
      return { type: "secrets", kind: view.getUint32(body, little), text };
    }
    default:
      return null;
  }
}

// if_tsresol: a power of ten, or of two with the high bit; microseconds when it is not said.
function readResolution(file: Uint8Array, view: DataView, from: number, end: number, little: boolean): bigint {
  for (let at = from; at + 4 <= end; ) {
    const code = view.getUint16(at, little);
    const length = view.getUint16(at + 2, little);
    if (code === 0) break;
    if (code === OPTION_TSRESOL && length >= 1 && at + 5 <= end) {
      const value = file[at + 4];
      return value & 0x80 ? 1n << BigInt(value & 0x7f) : 10n ** BigInt(value & 0x7f);
    }
    at += 4 + Math.ceil(length / 4) * 4;
  }
  return 1_000_000n;
}
