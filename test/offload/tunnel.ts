// Two or more devices and no network: packets with virtio headers in at one, runs of datagrams across, packets out at
// another; every record that the core gives is checked for being inside of the thread's slots.
import assert from "node:assert/strict";
import {
  IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET, IN_SEGMENT, IN_SIZE, IN_VNET, OUT_LENGTH, OUT_MAX,
  OUT_OFFSET, OUT_PEER, OUT_RUN_COUNT_MAX, OUT_RUN_LEN_MAX, OUT_SEGMENT, OUT_SIZE, OUT_TOS, SLOTS_SIZE, SLOT_HEADROOM,
  SLOT_SIZE, THREAD_IN, THREAD_OUT,
} from "../../assembly/abi.ts";
import { endpoint4, MainThread } from "../helpers/threads.ts";
import { type Delivered, takeDelivered } from "./fixture.ts";
import { type Bytes, expand, sameAfterJoin, type Vnet } from "./oracle.ts";

export interface Run {
  bytes: Bytes;
  /** of each datagram but the last; 0 = one datagram */
  segment: number;
  peer: number;
  tos: number;
}

/** The datagrams of a run. */
export function datagramsOf({ bytes, segment }: Run): Bytes[] {
  const all: Bytes[] = [];
  const step = segment || bytes.length;
  for (let at = 0; at < bytes.length; at += step) all.push(bytes.slice(at, at + step));
  return all;
}

export const slotOf = ({ core }: MainThread, index: number): number => core.slots + index * SLOT_SIZE + SLOT_HEADROOM;

export function putIn(
  main: MainThread, index: number, offset: number, length: number, segment: number, flags: number,
): void {
  const { view, u8, base } = main.core;
  const record = base + THREAD_IN + index * IN_SIZE;
  view.setUint32(record + IN_OFFSET, offset, true);
  view.setUint32(record + IN_LENGTH, length, true);
  view.setUint32(record + IN_SEGMENT, segment, true);
  view.setUint32(record + IN_FLAGS, flags, true);
  u8.set(endpoint4(9, 9), record + IN_ENDPOINT);
}

/** The OUT records of the last call, each checked. */
export function takeRuns({ core }: MainThread, count: number): Run[] {
  const { view, u8, base, slots } = core;
  assert.ok(count >= 0 && count <= OUT_MAX, `${count} OUT records`);
  return Array.from({ length: count }, (_, i) => {
    const word = (field: number) => view.getUint32(base + THREAD_OUT + i * OUT_SIZE + field, true);
    const [offset, length, segment] = [word(OUT_OFFSET), word(OUT_LENGTH), word(OUT_SEGMENT)];
    const isInside = offset >= slots && offset + length <= slots + SLOTS_SIZE;
    assert.ok(isInside, `OUT record ${i}: ${length} bytes at ${offset}`);
    assert.ok(length > 0 && length <= OUT_RUN_LEN_MAX, `OUT record ${i}: ${length} bytes`);
    const isRun = segment < length && Math.ceil(length / segment) <= OUT_RUN_COUNT_MAX;
    assert.ok(segment === 0 || isRun, `OUT record ${i}: ${length} bytes in ${segment}`);
    return { bytes: u8.slice(offset, offset + length), segment, peer: word(OUT_PEER), tos: word(OUT_TOS) };
  });
}

/** Sends packets with virtio headers in one call; those without a header go as plain ones. */
export function sendVnet(main: MainThread, packets: (Vnet | { header?: undefined; packet: Bytes })[]): Run[] {
  for (const [i, { header, packet }] of packets.entries()) {
    const at = slotOf(main, i);
    main.core.u8.set(packet, at);
    if (header) main.core.u8.set(header, at - 10);
    putIn(main, i, at, packet.length, 0, header ? IN_VNET : 0);
  }
  main.prepare();
  return takeRuns(main, main.core.exports.deviceSend(packets.length));
}

/** Receives runs as UDP_GRO hands them over, in as many calls as it takes. @param flags of all IN records */
export function receiveRuns(main: MainThread, runs: Run[], flags = 0): Delivered[] {
  const { core } = main;
  const delivered: Delivered[] = [];
  for (let from = 0; from < runs.length; from += IN_MAX) {
    const batch = runs.slice(from, from + IN_MAX);
    for (const [i, { bytes, segment }] of batch.entries()) {
      core.u8.set(bytes, slotOf(main, i) - 16);
      putIn(main, i, slotOf(main, i) - 16, bytes.length, segment, flags);
    }
    for (let first = 0; first < batch.length; ) {
      main.prepare();
      const next = core.exports.deviceReceive(first, batch.length);
      assert.ok(next > first, `deviceReceive(${first}): ${next}`);
      first = next;
      delivered.push(...takeDelivered(core.view, core.base, core.slots, core.slots + SLOTS_SIZE));
    }
  }
  return delivered;
}

/** Asserts that delivered packets are these, in order. @returns how many each was made of */
export function assertDelivered(delivered: Delivered[], expected: Bytes[], hasHeader = true): number[] {
  const sizes: number[] = [];
  let at = 0;
  for (const { bytes } of delivered) {
    const { packets } = hasHeader ? expand(bytes) : { packets: [bytes] };
    for (const packet of packets) {
      const wanted = expected[at++];
      assert.ok(wanted, "more packets than were sent");
      if (!sameAfterJoin(wanted, packet)) assert.deepEqual(packet, wanted, `packet ${at - 1}`);
    }
    sizes.push(packets.length);
  }
  assert.equal(at, expected.length, "packets that did not arrive");
  return sizes;
}

/** A device with peers, each a device of its own; peer n owns 10.n/16 and, of IPv6, fdNN::/16. */
export class Star {
  readonly hub: MainThread;
  readonly leaves: MainThread[] = [];
  /** the peer's number at the hub */
  readonly numbers: number[] = [];

  constructor(build: string, leaves = 1) {
    this.hub = new MainThread(build, { maxPeers: 16, maxNodes: 64 }, 77);
    const hubKey = this.hub.setPrivateKey(this.hub.key());
    this.hub.core.exports.deviceUp();
    for (let i = 0; i < leaves; i++) {
      const leaf = new MainThread(build, { maxPeers: 2, maxNodes: 16 }, 100 + i);
      const key = leaf.setPrivateKey(leaf.key());
      const hub = leaf.addPeer(hubKey);
      for (const family of [4, 6]) allowAll(leaf, hub, family);
      leaf.setEndpoint(hub, endpoint4(1, 1));
      leaf.core.exports.deviceUp();
      leaf.core.exports.deviceSetOffload(3);
      const number = this.hub.addPeer(key);
      allow(this.hub, number, 4, [10, i], 16);
      allow(this.hub, number, 6, [0xfd, i], 16);
      this.hub.setEndpoint(number, endpoint4(2 + i, 2));
      this.leaves.push(leaf);
      this.numbers.push(number);
    }
  }

  /** Does what is due on both sides until nothing more is said; collects what the leaf delivers. */
  settle(index = 0): Delivered[] {
    const leaf = this.leaves[index];
    const delivered: Delivered[] = [];
    for (let quiet = false; !quiet; ) {
      const out = this.hub.service().filter(({ peer }) => peer === this.numbers[index]);
      delivered.push(...receiveRuns(leaf, out.map(({ bytes, peer, tos }) => ({ bytes, segment: 0, peer, tos }))));
      const back = leaf.service();
      this.hub.receive(back.map(({ bytes }) => bytes), endpoint4(2 + index, 2));
      quiet = out.length + back.length === 0;
    }
    return delivered;
  }

  /** A session with every leaf. */
  connect(): this {
    for (const [i, number] of this.numbers.entries()) {
      this.hub.core.exports.peerHandshake(number);
      this.settle(i);
      this.hub.core.exports.peerKeepalive(number);
      this.settle(i);
    }
    return this;
  }
}

function allow(main: MainThread, peer: number, family: number, address: number[], cidr: number): void {
  const record = new Uint8Array(24);
  record.set([family, 0, 0, 0, cidr]);
  record.set(address, 8);
  assert.equal(main.core.withArgument(record, (at) => main.core.exports.allowedIpAdd(peer, at)), 0);
}

function allowAll(main: MainThread, peer: number, family: number): void {
  allow(main, peer, family, [], 0);
}
