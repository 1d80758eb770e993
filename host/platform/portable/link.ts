// The way out for IP packets: they are put together straight in the slots, each behind a virtio header, and sealed by one
// call of the core for all that a stack sends in one go. A super-packet is segmented there, and its segments leave as a
// run (UDP_SEGMENT, where the carrier has it).
//
// What is put waits for the end of the present job (a microtask) or for the room to be used up, never for a timer. A packet
// that is put while others are being received lies in slots of its own (slots.ts).

import {
  IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET, IN_SEGMENT, IN_SIZE, IN_VNET, OUT_MAX, OUT_RUN_COUNT_MAX, OUT_RUN_LEN_MAX,
  OUT_SLOT, SLOTS_SIZE, SLOT_HEADROOM, SLOT_SIZE, THREAD_IN,
} from "../../../assembly/abi.ts";
import { AUTHTAG_LEN, DATA_HEADER_LEN } from "../../../assembly/protocol.ts";
import type { Core } from "../../core.ts";
import type { Link, OutPacket } from "../../netstack/types.ts";
import { SEND_END, SEND_START } from "./slots.ts";
import {
  GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_CSUM_OFFSET, VNET_CSUM_START, VNET_F_NEEDS_CSUM, VNET_FLAGS,
  VNET_GSO_SIZE, VNET_GSO_TYPE, VNET_HDR_LEN, VNET_LEN,
} from "./vnet.ts";

const IP_LEN_MAX = 65535;
const IPV4_HEADER_LEN = 20;
const IPV6_HEADER_LEN = 40;
const TCP = 6;
const UDP = 17;
/** Offset of the checksum in each transport header that has one to leave: ICMP, TCP, UDP, ICMPv6. */
const CHECKSUM_OFFSET: Record<number, number> = { 1: 2, [TCP]: 16, [UDP]: 6, 58: 2 };
/** IPv6 extension headers whose second byte is their length in 8 bytes, less one: RFC 8200 §4.2 to 4.6 */
const EXTENSIONS = new Set([0, 43, 60]);
/** IPv6 and TCP with timestamps: headers are seldom longer. */
const HEADERS_LEN = 72;

// What the core asks for before it seals a packet (assembly/tunnel/run.ts): it drops what does not fit.
const SEAL_ROOM = SLOTS_SIZE - OUT_SLOT * SLOT_SIZE - 2 * SLOT_HEADROOM;
const SEGMENT_ROOM = 192;
const RECORD_ROOM = 32768;
const RECORDS = OUT_MAX - IN_MAX;
/** Sent when so much was put: what is put later would wait for no good reason while these could be on their way. */
const BURST_SIZE = 65536;
/** Our own bytes between packets: a message header before one, padding's room behind the other, borders of 8 and 64. */
const GAP = 136;

export interface DeviceLinkOptions {
  core: Core;
  mtu: number;
  /** the first `count` IN records hold packets; they are to be sealed before it returns */
  onPackets: (count: number) => void;
}

export class DeviceLink implements Link {
  readonly mtu: number;
  readonly gsoMaxSize: number;
  readonly #core: Core;
  readonly #onPackets: (count: number) => void;
  readonly #offsets = new Uint32Array(IN_MAX);
  readonly #lengths = new Uint32Array(IN_MAX);
  #count = 0;
  #cursor: number;
  /** of what is put: room for it when it is sealed, and records */
  #sealRoom = 0;
  #records = 0;
  #scheduled = false;
  #closed = false;
  readonly #flushLater = (): void => {
    this.#scheduled = false;
    this.flush();
  };

  constructor({ core, mtu, onPackets }: DeviceLinkOptions) {
    this.#core = core;
    this.#onPackets = onPackets;
    this.#cursor = this.#start;
    this.mtu = mtu;
    // One run for each super-packet, and no second one for what is left of it.
    const segments = Math.min(OUT_RUN_COUNT_MAX, Math.floor(OUT_RUN_LEN_MAX / (mtu + DATA_HEADER_LEN + AUTHTAG_LEN)));
    this.gsoMaxSize = Math.min(IP_LEN_MAX, Math.max(mtu, HEADERS_LEN + segments * (mtu - HEADERS_LEN)));
  }

  /** @throws RangeError when the packet cannot be one: too long, too many segments, no checksum where there must be one */
  send(packet: OutPacket): void {
    if (this.#closed) return;
    this.put(packet);
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(this.#flushLater);
  }

  /** Puts a packet and leaves it to the caller to flush(). */
  put({ header, payload, gsoSize, checksumStart }: OutPacket): void {
    let length = header.length;
    for (const piece of payload) length += piece.length;
    if (length > IP_LEN_MAX) throw new RangeError(`Cannot send a packet of ${length} bytes: at most ${IP_LEN_MAX}`);
    const segments = gsoSize > 0 ? Math.max(1, Math.ceil((length - header.length) / gsoSize)) : 1;
    const room = length + segments * SEGMENT_ROOM;
    const records = segments === 1 ? 1 : Math.floor(segments / OUT_RUN_COUNT_MAX) + Math.floor(room / RECORD_ROOM) + 2;
    if (room > SEAL_ROOM || records > RECORDS) throw new RangeError(`Cannot send a super-packet of ${segments} segments`);
    const checksumOffset = checksumStart > 0 ? findChecksum(header, checksumStart) : 0;
    const type = gsoSize > 0 ? gsoType(header, checksumStart, checksumOffset) : GSO_NONE;
    if (
      this.#count === IN_MAX || this.#cursor + length + GAP > this.#core.slots + SEND_END ||
      this.#sealRoom + room > SEAL_ROOM || this.#records + records > RECORDS
    ) {
      this.flush();
    }
    // V8 copies to shared memory by words only where both sides lie alike on borders of 8, else by bytes: 5 times as slow.
    const lies = payload.length > 0 ? payload[0].byteOffset - header.length : header.byteOffset;
    const at = this.#cursor + (lies & 7);
    const { u8, view } = this.#core;
    const vnet = at - VNET_LEN;
    view.setUint8(vnet + VNET_FLAGS, checksumStart > 0 ? VNET_F_NEEDS_CSUM : 0);
    view.setUint8(vnet + VNET_GSO_TYPE, type);
    view.setUint16(vnet + VNET_HDR_LEN, header.length, true);
    view.setUint16(vnet + VNET_GSO_SIZE, gsoSize, true);
    view.setUint16(vnet + VNET_CSUM_START, checksumStart, true);
    view.setUint16(vnet + VNET_CSUM_OFFSET, checksumOffset, true);
    u8.set(header, at);
    let end = at + header.length;
    for (const piece of payload) {
      u8.set(piece, end);
      end += piece.length;
    }
    this.#offsets[this.#count] = at;
    this.#lengths[this.#count] = length;
    this.#count++;
    this.#cursor = (end + GAP) & ~63;
    this.#sealRoom += room;
    this.#records += records;
    if (this.#cursor - this.#start >= BURST_SIZE) this.flush();
  }

  /** Sends what was put. Call before the core uses the slots for packets of its own. */
  flush(): void {
    const count = this.#count;
    if (count === 0) return;
    const { view, base } = this.#core;
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_IN + i * IN_SIZE;
      const length = this.#lengths[i];
      view.setUint32(record + IN_OFFSET, this.#offsets[i], true);
      view.setUint32(record + IN_LENGTH, length, true);
      view.setUint32(record + IN_SEGMENT, 0, true);
      // Too short to be IP: without a virtio header the core says so.
      view.setUint32(record + IN_FLAGS, length < IPV4_HEADER_LEN ? 0 : IN_VNET, true);
    }
    this.#count = 0;
    this.#cursor = this.#start;
    this.#sealRoom = 0;
    this.#records = 0;
    this.#onPackets(count);
  }

  /** What was put and not sent is lost; nothing is taken any more. */
  close(): void {
    this.#closed = true;
    this.#count = 0;
  }

  get #start(): number {
    return this.#core.slots + SEND_START + SLOT_HEADROOM;
  }
}

/** Where the transport header's checksum is. @throws RangeError when no checksum that can be left to us is there */
function findChecksum(header: Uint8Array, checksumStart: number): number {
  const protocol = transportProtocol(header, checksumStart);
  const offset = CHECKSUM_OFFSET[protocol];
  if (offset === undefined || checksumStart + offset + 2 > header.length) {
    throw new RangeError(`Cannot send a packet: no checksum is at its byte ${checksumStart}`);
  }
  return offset;
}

/** Protocol of the header at `start`; -1 when the IP header does not lead there. */
function transportProtocol(header: Uint8Array, start: number): number {
  const version = header[0] >> 4;
  if (version === 4) return start === (header[0] & 15) * 4 ? header[9] : -1;
  let next = header[6];
  let at = IPV6_HEADER_LEN;
  while (at < start && EXTENSIONS.has(next)) {
    next = header[at];
    at += (header[at + 1] + 1) * 8;
  }
  return version === 6 && at === start ? next : -1;
}

function gsoType(header: Uint8Array, checksumStart: number, checksumOffset: number): number {
  if (checksumOffset === CHECKSUM_OFFSET[UDP]) return GSO_UDP_L4;
  if (checksumStart === 0 || checksumOffset !== CHECKSUM_OFFSET[TCP]) {
    throw new RangeError("Cannot send a super-packet: it is neither TCP nor UDP with its checksum left to the link");
  }
  return header[0] >> 4 === 4 ? GSO_TCPV4 : GSO_TCPV6;
}
