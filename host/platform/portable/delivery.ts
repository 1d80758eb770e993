// The way in for IP packets: DELIVER records become packets for a function. They are taken out of the slots first, all of
// them, because the function may send, and that may end in the same slots; and a packet that was joined from several lies
// in pieces anyway.

import {
  DELIVER_CONTINUES, DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_MAX, DELIVER_OFFSET, DELIVER_SIZE, SLOTS_SIZE, THREAD_DELIVER,
} from "../../../assembly/abi.ts";
import type { Core } from "../../core.ts";
import { WasmguardError } from "../../errors.ts";
import type { InPacket } from "../../netstack/types.ts";
import type { ErrorCounts, PacketSink } from "../types.ts";
import { RECEIVE_SIZE } from "./slots.ts";
import {
  GSO_NONE, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE, VNET_LEN,
} from "./vnet.ts";

/** What a call of the core can deliver: what it was given, and for each packet a virtio header and up to 7 bytes. */
const ARENA_SIZE = RECEIVE_SIZE + DELIVER_MAX * (VNET_LEN + 7);

/** Reads the DELIVER records of a thread, each checked against its slots. */
class Records {
  readonly #core: Core;

  constructor(core: Core) {
    this.#core = core;
  }

  /**
   * Copies the packets of the first `count` records, one behind the other. Each lies in `dst` as in the slots on borders of
   * 8 bytes: V8 copies from shared memory by words only then, else by bytes, 5 times as slow.
   * @returns where each starts and ends in `dst`
   * @throws WasmguardError ERR_CORE_ADDRESS
   */
  copy(count: number, dst: Uint8Array): number[] {
    const { view, u8, base, slots } = this.#core;
    if (count > DELIVER_MAX) throw badAddress(`${count} packets`);
    const bounds: number[] = [];
    let end = 0;
    let begins = true;
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_DELIVER + i * DELIVER_SIZE;
      const offset = view.getUint32(record + DELIVER_OFFSET, true);
      const length = view.getUint32(record + DELIVER_LENGTH, true);
      if (begins) {
        end += (offset - end) & 7;
        bounds.push(end);
      }
      if (offset < slots || offset + length > slots + SLOTS_SIZE || end + length > dst.length) {
        throw badAddress(`a packet outside of its slots: ${offset}+${length}`);
      }
      dst.set(u8.subarray(offset, offset + length), end);
      end += length;
      begins = !(view.getUint32(record + DELIVER_FLAGS, true) & DELIVER_CONTINUES) || i + 1 === count;
      if (begins) bounds.push(end);
    }
    return bounds;
  }
}

function badAddress(what: string): WasmguardError {
  return new WasmguardError("ERR_CORE_ADDRESS", `The core gave ${what}`);
}

abstract class Delivery implements PacketSink {
  readonly errors: ErrorCounts = new Map();
  readonly #records: Records;
  readonly #arena = new Uint8Array(ARENA_SIZE);

  constructor(core: Core) {
    this.#records = new Records(core);
  }

  deliver(count: number): number {
    const bounds = this.#records.copy(count, this.#arena);
    for (let i = 0; i < bounds.length; i += 2) this.give(this.#arena, bounds[i], bounds[i + 1]);
    return bounds.length / 2;
  }

  /** One packet is at start..end of `arena`, which is written again after the last one. */
  protected abstract give(arena: Uint8Array, start: number, end: number): void;
}

/** Packets as they came, without a virtio header, each in memory of its own. */
export class PacketDelivery extends Delivery {
  readonly #onPacket: (packet: Uint8Array) => void;

  constructor(core: Core, onPacket: (packet: Uint8Array) => void) {
    super(core);
    this.#onPacket = onPacket;
  }

  protected give(arena: Uint8Array, start: number, end: number): void {
    this.#onPacket(arena.slice(start, end));
  }
}

/** Packets with a virtio header (OFFLOAD_VNET), TCP runs joined; valid during the call. */
export class InputDelivery extends Delivery {
  readonly #onInput: (packet: InPacket) => void;

  constructor(core: Core, onInput: (packet: InPacket) => void) {
    super(core);
    this.#onInput = onInput;
  }

  protected give(arena: Uint8Array, start: number, end: number): void {
    this.#onInput(toInPacket(arena, start, end));
  }
}

/** A packet and the virtio header before it, as the core delivered them, seen as a stack wants it. */
export function toInPacket(memory: Uint8Array, start: number, end: number): InPacket {
  if (end - start < VNET_LEN) throw badAddress(`a packet of ${end - start} bytes with its header`);
  const flags = memory[start + VNET_FLAGS];
  const joined = memory[start + VNET_GSO_TYPE] !== GSO_NONE;
  return {
    bytes: memory.subarray(start + VNET_LEN, end),
    gsoSize: joined ? memory[start + VNET_GSO_SIZE] | (memory[start + VNET_GSO_SIZE + 1] << 8) : 0,
    // The core joins and marks valid only what it has verified itself.
    checksumVerified: (flags & (VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID)) !== 0,
  };
}
