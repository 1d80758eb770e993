// What a device tells of itself: statistics and events as text, the live view, the doctor's rules.

import assert from "node:assert/strict";
import { suite } from "uvu";
import * as abi from "../../assembly/abi.ts";
import { DROP_NAMES } from "../../host/device.ts";
import { diagnose, type Evidence, type Finding } from "../../host/doctor.ts";
import { parseEndpoint } from "../../host/endpoint.ts";
import { eventName } from "../../host/events.ts";
import { parsePrefix } from "../../host/ip.ts";
import { encodeBase64Key } from "../../host/keys.ts";
import type { DeviceState, PeerState } from "../../host/model.ts";
import { formatShow } from "../../host/show.ts";
import { formatEvent, formatStatistics, parseEvent, parseRequest, parseStatistics } from "../../host/uapi.ts";
import { Watch } from "../../host/watch.ts";

const NOW = 1_800_000_000;

function peer(change: Partial<PeerState> = {}): PeerState {
  return {
    publicKey: new Uint8Array(32).fill(3), presharedKey: new Uint8Array(32), endpoint: parseEndpoint("192.0.2.1:51820"),
    lastHandshake: { sec: NOW - 10, nsec: 1 }, txBytes: 1000n, rxBytes: 1000n, persistentKeepalive: 0,
    allowedIps: [parsePrefix("10.0.0.0/24")], ...change,
  };
}

const device = (...peers: PeerState[]): DeviceState => ({ privateKey: new Uint8Array(32).fill(2), listenPort: 51820, fwmark: 0, peers });

const text = suite("observation as text");

text("every event and every drop of the core has a name", () => {
  const values = abi as unknown as Record<string, number>;
  const fields = ["EVENT_MAX", "EVENT_SIZE", "EVENT_TYPE", "EVENT_PEER", "EVENT_ARGUMENT", "EVENT_SERIAL", "EVENT_EPHEMERAL"];
  const camel = (name: string) => name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const events = Object.keys(values).filter((name) => /^EVENT_/.test(name) && !fields.includes(name));
  for (const name of events) assert.equal(eventName(values[name]), camel(name.slice(6)));
  assert.ok(events.length >= 13, String(events.length));
  const drops = Object.keys(values).filter((name) => /^DROP_/.test(name) && name !== "DROP_COUNT");
  for (const name of drops) assert.equal(DROP_NAMES[values[name]], camel(name.slice(5)));
  assert.equal(drops.length, values.DROP_COUNT);
  assert.throws(() => eventName(0), RangeError);
});

text("statistics and events are read as they were written", () => {
  const statistics = { drops: { badMac1: 3n, replayed: 2n ** 60n }, events: { roamed: 1 } };
  assert.deepEqual(parseStatistics(formatStatistics(statistics).trim().split("\n")), statistics);
  assert.deepEqual(parseStatistics(["later=news"]), { drops: {}, events: {} });
  assert.throws(() => parseStatistics(["nonsense"]), { code: "EPROTO" });
  for (const event of [
    { name: "roamed", peer: encodeBase64Key(new Uint8Array(32).fill(9)), argument: 0, time: 1_800_000_000_123 },
    { name: "underLoad", peer: null, argument: 1, time: 1 },
  ] as const) {
    const lines = formatEvent(event);
    assert.ok(lines.endsWith("\n\n"), lines);
    assert.deepEqual(parseEvent(lines.trim().split("\n")), event);
  }
  assert.deepEqual(parseRequest(["statistics=1"]), { kind: "statistics" });
  assert.throws(() => parseRequest(["events=1", "more=1"]), { code: "EINVAL" });
});

text("show lists refused packets after what wg shows", () => {
  const state = device(peer());
  const plain = formatShow("wg0", state, null, false, NOW);
  const shown = formatShow("wg0", state, null, false, NOW, { drops: { badMac1: 3n, outNoRoute: 1n }, events: {} });
  assert.equal(shown, `${plain}\nrefused packets:\n  bad mac1: 3\n  out no route: 1\n`);
});

text("the live view: rates of the last look, the busiest first, what does not fit is counted", () => {
  const watch = new Watch();
  const other = new Uint8Array(32).fill(200);
  watch.look(device(peer(), peer({ publicKey: other })), 1000);
  const state = device(peer(), peer({ publicKey: other, rxBytes: 251_000n, txBytes: 126_000n, endpoint: null }));
  watch.look(state, 3000);
  const lines = watch.format("wg0", state, { drops: { badTag: 5n }, events: {} }, NOW).split("\n");
  assert.equal(lines[0], "wg0  port 51820  2 peers");
  assert.match(lines[2], /^yMjIyMjI…  -\s+10 s ago\s+1\.0 Mbit\/s\s+500 kbit\/s\s+▁█$/);
  assert.match(lines[3], /192\.0\.2\.1:51820\s+10 s ago\s+0 bit\/s\s+0 bit\/s\s+▁▁$/);
  assert.equal(lines[4], "refused: badTag 5");
  assert.match(watch.format("wg0", state, null, NOW, 1), /\.\.\. and 1 more\n$/);
  // A peer that was removed and added begins at zero again.
  watch.look(device(peer({ rxBytes: 0n, txBytes: 0n })), 4000);
  assert.match(watch.format("wg0", device(peer({ rxBytes: 0n })), null, NOW), /0 bit\/s\s+0 bit\/s/);
});

text.run();

const doctor = suite("doctor");

const key = encodeBase64Key(peer().publicKey);

function findings(state: DeviceState, change: Partial<Evidence> = {}): Finding[] {
  return diagnose({
    name: "wg0", state, statistics: { drops: {}, events: {} }, link: { up: true, mtu: 1420, addresses: ["10.0.0.1/24"] },
    endpointRoutes: new Map([[key, "eth0"]]), innerRoutes: new Map([[key, "wg0"]]), endpointMtus: new Map([[key, 1500]]), nowSec: NOW, ...change,
  });
}

const problems = (...args: Parameters<typeof findings>): string[] => findings(...args).filter(({ level }) => level === "problem").map(({ text }) => text);

doctor("a healthy tunnel has nothing but one that lives", () => {
  assert.deepEqual(findings(device(peer())).map(({ level, text }) => [level, text]), [["ok", "it lives"]]);
});

const cases: [what: string, expected: RegExp, state: DeviceState, change?: Partial<Evidence>][] = [
  ["no private key", /no private key/, { ...device(peer()), privateKey: null }],
  ["no peer", /no peer is configured/, device()],
  ["down", /interface is down/, device(peer()), { link: { up: false, mtu: 1420, addresses: ["10.0.0.1/24"] } }],
  ["no address", /has no address/, device(peer()), { link: { up: true, mtu: 1420, addresses: [] } }],
  ["no port", /no UDP port/, { ...device(peer()), listenPort: 0 }],
  ["no reply", /nothing ever came back/, device(peer({ lastHandshake: { sec: 0, nsec: 0 }, rxBytes: 0n }))],
  ["wrong keys", /no handshake completed/, device(peer({ lastHandshake: { sec: 0, nsec: 0 }, rxBytes: 92n }))],
  ["no endpoint", /its endpoint is not known/, device(peer({ lastHandshake: { sec: 0, nsec: 0 }, endpoint: null }))],
  ["no route", /no route to its endpoint/, device(peer()), { endpointRoutes: new Map([[key, null]]) }],
  ["a loop", /into the tunnel itself/, device(peer()), { endpointRoutes: new Map([[key, "wg0"]]) }],
  ["allowed IPs not routed", /not routed into the tunnel/, device(peer()), { innerRoutes: new Map([[key, "eth0"]]) }],
  ["MTU", /full packets do not fit/, device(peer()), { endpointMtus: new Map([[key, 1400]]) }],
  ["no allowed IPs", /no allowed IPs/, device(peer({ allowedIps: [] }))],
  ["clock", /clock went backwards/, device(peer({ lastHandshake: { sec: NOW + 60, nsec: 0 } }))],
  ["stopped answering", /stopped answering/, device(peer({ lastHandshake: { sec: NOW - 500, nsec: 0 }, persistentKeepalive: 25 }))],
  ["preshared key", /preshared keys differ/, device(peer()), { statistics: { drops: { badHandshake: 2n }, events: {} } }],
  ["foreign source", /not in its allowed IPs/, device(peer()), { statistics: { drops: { badSource: 2n }, events: {} } }],
];

for (const [what, expected, state, change] of cases) {
  doctor(what, () => {
    const found = problems(state, change);
    assert.equal(found.length, 1, found.join("\n"));
    assert.match(found[0], expected);
  });
}

doctor("a mark keeps the endpoint out of the tunnel, and then it is no loop", () => {
  assert.deepEqual(problems({ ...device(peer()), fwmark: 51820 }, { endpointRoutes: new Map([[key, "wg0"]]) }), []);
});

doctor.run();
