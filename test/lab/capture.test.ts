// Captures: the key log comes out of the core only when asked for; files written are read; messages are taken apart, and
// every field that is wrong is called wrong; damaged files and messages give an error or a note, never a crash.

import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { suite } from "uvu";
import { DEVICE_EVENT_HEAD, EVENT_EPHEMERAL, EVENT_MAX, EVENTS, EVENT_SIZE, EVENT_TYPE, KEY_LOG, KEY_LOG_END } from "../../assembly/abi.ts";
import { Dissector, hex } from "../../host/capture/dissector.ts";
import { formatKeys, parseKeyLog } from "../../host/capture/keylog.ts";
import {
  type CaptureItem, fileHeader, LINKTYPE_ETHERNET, LINKTYPE_RAW, packetBlock, readCapture, SECRETS_WIREGUARD, secretsBlock,
} from "../../host/capture/pcapng.ts";
import { Primitives } from "../../host/capture/primitives.ts";
import { join } from "../../host/netstack/bytes.ts";
import { Recorder } from "../../host/capture/recorder.ts";
import { udpDatagram, udpPacket } from "../../host/capture/udp-packet.ts";
import { type Bytes, endpoint4, MainThread, packet4, seeded } from "../helpers/threads.ts";
import { builds } from "../helpers/wasm.ts";

const crypto = await Primitives.open();

/** The last ephemeral key that a device handed out. */
function lastEphemeral({ core: { view, u8 } }: MainThread): Bytes {
  for (let serial = view.getUint32(DEVICE_EVENT_HEAD, true) - 1; serial >= 0; serial--) {
    const at = serial % EVENT_MAX;
    if (view.getUint32(EVENTS + at * EVENT_SIZE + EVENT_TYPE, true) !== EVENT_EPHEMERAL) continue;
    return new Uint8Array(u8.slice(KEY_LOG + at * 32, KEY_LOG + at * 32 + 32));
  }
  throw new Error("no ephemeral key was handed out");
}

/** A handshake and a packet each way, with everything that was secret in it. */
function conversation(build: string, logs: boolean) {
  const [left, right] = [new MainThread(build, undefined, 1), new MainThread(build, undefined, 2)];
  const [leftPrivate, rightPrivate, presharedKey] = [left.key(), right.key(), left.key()];
  const [leftPublic, rightPublic] = [left.setPrivateKey(leftPrivate), right.setPrivateKey(rightPrivate)];
  const [atLeft, atRight] = [left.addPeer(rightPublic), right.addPeer(leftPublic)];
  for (const [device, peer] of [[left, atLeft], [right, atRight]] as const) {
    device.setPsk(peer, presharedKey);
    device.allow(peer, [10, 0, 0, 0], 8);
    if (logs) device.core.exports.deviceSetKeyLog(1);
    device.core.exports.deviceUp();
  }
  left.setEndpoint(atLeft, endpoint4(2, 2));
  left.send([packet4([10, 0, 0, 1], [10, 0, 0, 2], 100)]);
  const [initiation] = left.service();
  right.receive([initiation.bytes], endpoint4(1, 1));
  const [response] = right.service();
  left.receive([response.bytes], endpoint4(2, 2));
  const [data] = left.service();
  right.receive([data.bytes], endpoint4(1, 1));
  right.service();
  const [reply] = right.send([packet4([10, 0, 0, 2], [10, 0, 0, 1], 60)]);
  const messages = [initiation, response, data, reply].map(({ bytes }) => bytes);
  return { left, right, leftPrivate, rightPrivate, leftPublic, rightPublic, presharedKey, messages };
}

type Conversation = ReturnType<typeof conversation>;

const keyLogOf = (it: Conversation, side: "left" | "right"): string =>
  formatKeys({
    localStaticPrivate: side === "left" ? it.leftPrivate : it.rightPrivate,
    remoteStaticPublic: side === "left" ? it.rightPublic : it.leftPublic,
    localEphemeralPrivate: lastEphemeral(it[side]),
    presharedKey: it.presharedKey,
  });

const core = suite("key log of the core");

for (const build of builds) {
  core(`${build}: nothing is handed out unless asked for, and it is wiped when that ends`, () => {
    const silent = conversation(build, false).left.core;
    assert.ok(silent.u8.slice(KEY_LOG, KEY_LOG_END).every((byte) => byte === 0), "a key lies in the log");
    const { core } = conversation(build, true).left;
    assert.ok(core.u8.slice(KEY_LOG, KEY_LOG_END).some((byte) => byte !== 0), "no key lies in the log");
    core.exports.deviceSetKeyLog(0);
    assert.ok(core.u8.slice(KEY_LOG, KEY_LOG_END).every((byte) => byte === 0), "a key was left in the log");
  });

  for (const side of ["left", "right"] as const) {
    core(`${build}: the keys of the ${side === "left" ? "initiator" : "responder"} open all of it`, () => {
      const it = conversation(build, true);
      const dissector = new Dissector(crypto, parseKeyLog(keyLogOf(it, side)));
      const dissections = it.messages.map((message) => dissector.dissect(message));
      assert.deepEqual(dissections.map(({ type }) => type), ["initiation", "response", "data", "data"]);
      assert.deepEqual(dissections.flatMap(({ notes }) => notes), []);
      assert.deepEqual(dissections[0].steps.map(({ token }) => token), ["", "e", "es", "s", "ss", "{t}"]);
      assert.deepEqual(dissections[1].steps.map(({ token }) => token), ["e", "ee", "se", "psk", "{}", "split", "split"]);
      assert.deepEqual(Array.from(dissections[2].inner!.subarray(0, 100)), Array.from(packet4([10, 0, 0, 1], [10, 0, 0, 2], 100)));
      assert.equal(dissections[3].inner!.length, 64);
    });
  }
}

core("without keys each message says what is missing", () => {
  const it = conversation("plain", true);
  const dissector = new Dissector(crypto);
  for (const message of it.messages) assert.equal(dissector.dissect(message).notes.length, 1, hex(message.subarray(0, 4)));
});

core("a flipped bit is called wrong where it is, or where it must show", () => {
  const it = conversation("plain", true);
  const keys = parseKeyLog(keyLogOf(it, "right"));
  const [initiation] = it.messages;
  for (let at = 0; at < initiation.length - 16; at++) {
    const flipped = initiation.slice();
    flipped[at] ^= 1;
    const { fields, notes } = new Dissector(crypto, keys).dissect(flipped);
    // A changed sender index is covered by mac1 alone, and so is mac1 itself.
    assert.ok(notes.length > 0 || fields.some(({ valid }) => valid === false), `byte ${at} changed, and nobody says so`);
  }
  const dissector = new Dissector(crypto, keys);
  it.messages.slice(0, 2).forEach((message) => dissector.dissect(message));
  for (let at = 4; at < it.messages[2].length; at++) {
    const flipped = it.messages[2].slice();
    flipped[at] ^= 0x80;
    assert.equal(dissector.dissect(flipped).notes.length, 1, `byte ${at}`);
  }
});

core("whatever comes, a dissection comes back", () => {
  const it = conversation("plain", true);
  const dissector = new Dissector(crypto, parseKeyLog(keyLogOf(it, "left") + keyLogOf(it, "right")));
  const below = seeded(7);
  for (let i = 0; i < 3000; i++) {
    const message = it.messages[below(4)].slice(0, below(3) ? undefined : below(150));
    for (let flips = below(4); flips > 0 && message.length > 0; flips--) message[below(message.length)] = below(256);
    const { fields } = dissector.dissect(message);
    for (const { offset, length } of fields) assert.ok(offset + length <= message.length, `${offset}+${length} of ${message.length}`);
  }
});

core.run();

const files = suite("capture files");

const payload = Uint8Array.from({ length: 33 }, (_, i) => i);
const sides = {
  4: [{ address: Uint8Array.of(192, 0, 2, 1), port: 1 }, { address: Uint8Array.of(192, 0, 2, 2), port: 65535 }],
  6: [{ address: new Uint8Array(16).fill(1), port: 51820 }, { address: new Uint8Array(16).fill(2), port: 2 }],
} as const;

/** RFC 1071 over a whole UDP datagram with its pseudo-header gives all ones. */
function udpSum(packet: Uint8Array, version: 4 | 6): number {
  const ip = version === 4 ? 20 : 40;
  const words = [...packet.slice(version === 4 ? 12 : 8)];
  if (words.length % 2) words.push(0);
  let sum = 17 + packet.length - ip;
  for (let i = 0; i < words.length; i += 2) sum += (words[i] << 8) | words[i + 1];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

for (const version of [4, 6] as const) {
  files(`a datagram over IPv${version} goes in and comes out`, () => {
    const [source, destination] = sides[version];
    const packet = udpPacket(source, destination, payload);
    assert.equal(udpSum(packet, version), 0xffff);
    const file = join([fileHeader("test"), secretsBlock("# none\n"), packetBlock(packet, 1_700_000_000_123_456_789n)]);
    const [secrets, item] = [...readCapture(file)] as [CaptureItem & { type: "secrets" }, CaptureItem & { type: "packet" }];
    assert.deepEqual([secrets.kind, secrets.text], [SECRETS_WIREGUARD, "# none\n"]);
    assert.deepEqual([item.nanoseconds, item.linkType, item.truncated], [1_700_000_000_123_456_789n, LINKTYPE_RAW, false]);
    assert.deepEqual(udpDatagram(item.bytes, item.linkType), { source, destination, payload });
    const ethernet = join([new Uint8Array(12), version === 4 ? Uint8Array.of(8, 0) : Uint8Array.of(0x86, 0xdd), packet]);
    assert.deepEqual(udpDatagram(ethernet, LINKTYPE_ETHERNET)?.payload, payload);
  });
}

files("classic pcap, either byte order", () => {
  const packet = udpPacket(...sides[4], payload);
  for (const little of [true, false]) {
    const file = new Uint8Array(24 + 16 + packet.length);
    const view = new DataView(file.buffer);
    [0xa1b2c3d4, 0x00040002, 0, 0, 65535, LINKTYPE_RAW, 17, 250_000, packet.length, packet.length].forEach((word, i) => view.setUint32(i * 4, word, little));
    file.set(packet, 40);
    const [item] = [...readCapture(file)] as (CaptureItem & { type: "packet" })[];
    assert.equal(item.nanoseconds, 17_250_000_000n);
    assert.deepEqual(udpDatagram(item.bytes, item.linkType)?.payload, payload);
  }
});

files("damage is an error with its place, or less to read", () => {
  const packet = udpPacket(...sides[4], payload);
  const file = join([fileHeader("test"), secretsBlock("x"), packetBlock(packet, 5n), packetBlock(packet, 6n)]);
  const below = seeded(3);
  let refused = 0;
  for (let i = 0; i < 4000; i++) {
    const damaged = file.slice(0, below(2) ? file.length : below(file.length));
    for (let flips = 1 + below(4); flips > 0 && damaged.length > 0; flips--) damaged[below(damaged.length)] = below(256);
    try {
      for (const item of readCapture(damaged)) if (item.type === "packet") udpDatagram(item.bytes, item.linkType);
    } catch (error) {
      assert.equal((error as { code?: string }).code, "ERR_CAPTURE", String(error));
      refused++;
    }
  }
  assert.ok(refused > 1000, `${refused} of 4000 refused`);
  for (const [bytes, message] of [
    [new Uint8Array(3), /3 bytes are no capture/], [new Uint8Array(30).fill(7), /neither pcap nor pcapng/],
    [file.slice(0, file.length - 3), /the file ends before/],
  ] as const) {
    assert.throws(() => [...readCapture(bytes)], { code: "ERR_CAPTURE", message });
  }
});

files("a key log names the line that is wrong, and no key", () => {
  const key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  for (const [text, message] of [
    [`\nSECRET = ${key}`, /line 2: it is none of/],
    [`LOCAL_STATIC_PRIVATE_KEY = ${key.slice(1)}`, /line 1: /],
    [`PRESHARED_KEY = ${key}`, /line 1: a preshared key comes after/],
  ] as const) {
    assert.throws(() => parseKeyLog(text), (error: Error) => message.test(error.message) && !error.message.includes("AAAA"), text);
  }
  const log = parseKeyLog(`# all\r\nLOCAL_EPHEMERAL_PRIVATE_KEY = ${key}\r\nPRESHARED_KEY = ${key}\n`);
  assert.equal(log.ephemerals.length, 1);
  assert.equal(log.ephemerals[0].presharedKey!.length, 32);
});

const identity = () => ({ privateKey: null, listenPort: 51820 });
const localAddressTo = () => null;

files("a file that others may read is refused and stays as it was; one of ours is begun anew", () => {
  const folder = mkdtempSync(joinPath(tmpdir(), "wasmguard-capture-"));
  const pcap = joinPath(folder, "old.pcapng");
  writeFileSync(pcap, "x".repeat(1000));
  chmodSync(pcap, 0o644);
  assert.throws(() => new Recorder({ pcap, identity, localAddressTo }), { code: "EPERM" });
  assert.equal(readFileSync(pcap, "utf8"), "x".repeat(1000));
  chmodSync(pcap, 0o600);
  new Recorder({ pcap, identity, localAddressTo }).close();
  assert.deepEqual(readFileSync(pcap), Buffer.from(fileHeader("wasmguard")));
  rmSync(folder, { recursive: true });
});

files("what cannot be recorded ends no tunnel: a full disk, a datagram from port 0", () => {
  const folder = mkdtempSync(joinPath(tmpdir(), "wasmguard-capture-"));
  const told: string[] = [];
  const full = new Recorder({ keyLog: "/dev/full", identity, localAddressTo, onFailed: ({ code }) => void told.push(code) });
  const key = new Uint8Array(32);
  const keys = { localStaticPrivate: key, remoteStaticPublic: key, localEphemeralPrivate: key, presharedKey: key };
  for (let i = 0; i < 3; i++) full.keys(keys);
  full.close();
  assert.deepEqual(told, ["ENOSPC"]);
  const pcap = joinPath(folder, "new.pcapng");
  const recorder = new Recorder({ pcap, identity, localAddressTo });
  const remote = { family: 4 as const, address: Uint8Array.of(127, 0, 0, 1), port: 0, scope: 0 };
  recorder.packets([{ incoming: true, remote, local: null, bytes: new Uint8Array(148), at: 1 }]);
  assert.equal([...readCapture(readFileSync(pcap))].length, 1);
  recorder.close();
  rmSync(folder, { recursive: true });
});

files.run();
