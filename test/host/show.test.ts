// The screen and the JSON of `wasmguard show`. That the screen is the one of `wg show` to the byte is checked against
// the real program in uapi-server.test.ts; here the lines that depend on the time, and what must not be shown.

import assert from "node:assert";
import fc from "fast-check";
import { suite } from "uvu";
import { parseEndpoint } from "../../host/endpoint.ts";
import { parsePrefix } from "../../host/ip.ts";
import { encodeBase64Key, encodeHexKey, isZeroKey } from "../../host/keys.ts";
import type { DeviceState } from "../../host/model.ts";
import { formatShow, toJson } from "../../host/show.ts";
import { deviceState } from "./arbitrary.ts";

const NOW = 1_700_000_000;
const publicKey = new Uint8Array(32).fill(1);

function device(handshakeSec: number, rxBytes: bigint): DeviceState {
  return {
    privateKey: new Uint8Array(32).fill(2),
    listenPort: 51820,
    fwmark: 0xca6c,
    peers: [
      {
        publicKey: new Uint8Array(32).fill(3),
        presharedKey: new Uint8Array(32).fill(4),
        endpoint: parseEndpoint("192.0.2.1:51820"),
        lastHandshake: { sec: handshakeSec, nsec: 1 },
        txBytes: 1536n,
        rxBytes,
        persistentKeepalive: 25,
        allowedIps: [parsePrefix("10.0.0.0/24"), parsePrefix("fd00::/64")],
      },
    ],
  };
}

/** The value of one field of the only peer. */
function field(label: string, handshakeSec: number, rxBytes = 0n): string | undefined {
  const text = formatShow("wg0", device(handshakeSec, rxBytes), publicKey, false, NOW);
  return new RegExp(`^  ${label}: (.*)$`, "m").exec(text)?.[1];
}

const show = suite("show");

show("a whole screen", () => {
  assert.strictEqual(
    formatShow("wg0", device(NOW - 63, 92n), publicKey, false, NOW),
    `interface: wg0
  public key: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
  private key: (hidden)
  listening port: 51820
  fwmark: 0xca6c

peer: AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
  preshared key: (hidden)
  endpoint: 192.0.2.1:51820
  allowed ips: 10.0.0.0/24, fd00::/64
  latest handshake: 1 minute, 3 seconds ago
  transfer: 92 B received, 1.50 KiB sent
  persistent keepalive: every 25 seconds
`,
  );
  const empty = { privateKey: null, listenPort: 0, fwmark: 0, peers: [] };
  assert.strictEqual(formatShow("wg0", empty, null, false, NOW), "interface: wg0\n");
});

show("times", () => {
  for (const [ago, text] of [
    [0, "Now"],
    [1, "1 second ago"],
    [60, "1 minute ago"],
    [3600 + 120 + 3, "1 hour, 2 minutes, 3 seconds ago"],
    [86400 * 366 + 1, "1 year, 1 day, 1 second ago"],
    [-5, "(System clock wound backward; connection problems may ensue.)"],
  ] as const) {
    assert.strictEqual(field("latest handshake", NOW - ago), text);
  }
  assert.strictEqual(field("latest handshake", 0), undefined);
});

show("units", () => {
  for (const [bytes, text] of [
    [0n, "0 B"],
    [1023n, "1023 B"],
    [1024n, "1.00 KiB"],
    [1024n ** 2n - 1n, "1024.00 KiB"],
    [1024n ** 2n, "1.00 MiB"],
    [5n * 1024n ** 3n, "5.00 GiB"],
    [2048n * 1024n ** 4n, "2048.00 TiB"],
  ] as const) {
    assert.strictEqual(field("transfer", 0, bytes), `${text} received, 1.50 KiB sent`);
  }
});

show("color changes nothing but color", () => {
  fc.assert(
    fc.property(deviceState, (state) => {
      const colored = formatShow("wg0", state, publicKey, true, NOW);
      assert.match(colored, /\x1b\[32m/);
      assert.strictEqual(colored.replace(/\x1b\[\d+m/g, ""), formatShow("wg0", state, publicKey, false, NOW));
    }),
  );
});

show("neither form holds a secret key", () => {
  fc.assert(
    fc.property(deviceState, (state) => {
      const secrets = [state.privateKey, ...state.peers.map((peer) => peer.presharedKey)].filter((it) => it !== null);
      const text = formatShow("wg0", state, publicKey, true, NOW) + JSON.stringify(toJson("wg0", state, publicKey));
      for (const secret of secrets.filter((it) => !isZeroKey(it))) {
        const published = state.peers.some((peer) => encodeHexKey(peer.publicKey) === encodeHexKey(secret));
        if (published) continue;
        assert.ok(!text.includes(encodeBase64Key(secret)) && !text.includes(encodeHexKey(secret)));
      }
    }),
  );
});

show("JSON", () => {
  assert.deepStrictEqual(JSON.parse(JSON.stringify(toJson("wg0", device(NOW, 5n), publicKey))), {
    name: "wg0",
    publicKey: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    hasPrivateKey: true,
    listenPort: 51820,
    fwmark: 0xca6c,
    peers: [
      {
        publicKey: "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
        hasPresharedKey: true,
        endpoint: "192.0.2.1:51820",
        allowedIps: ["10.0.0.0/24", "fd00::/64"],
        latestHandshake: NOW,
        rxBytes: 5,
        txBytes: 1536,
        persistentKeepalive: 25,
      },
    ],
  });
});

show.run();
