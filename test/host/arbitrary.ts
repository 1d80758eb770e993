// Random devices for the property tests of the text parts.

import fc from "fast-check";
import type { Endpoint } from "../../host/endpoint.ts";
import { formatPrefix, mask, type AllowedIp, type IpAddress } from "../../host/ip.ts";
import type { DeviceState, PeerState } from "../../host/model.ts";

const UINT64_MAX = 2n ** 64n - 1n;

const key = fc.uint8Array({ minLength: 32, maxLength: 32 });
const ordinary = { noNullPrototype: true } as const; // so that deepStrictEqual compares values alone

// Zeros more often than by chance: they make "::".
const ipv6 = fc.array(fc.oneof(fc.constant(0), fc.nat(0xffff)), { minLength: 8, maxLength: 8 });

export const address: fc.Arbitrary<IpAddress> = fc.oneof(
  fc.uint8Array({ minLength: 4, maxLength: 4 }).map((address) => ({ family: 4 as const, address })),
  ipv6.map((groups) => ({
    family: 6 as const,
    address: Uint8Array.from(groups.flatMap((group) => [group >> 8, group & 0xff])),
  })),
);

export const endpoint: fc.Arbitrary<Endpoint> = fc
  .tuple(address, fc.integer({ min: 1, max: 65535 }), fc.oneof(fc.constant(0), fc.nat(0x7fffffff)))
  .map(([ip, port, scope]) => ({ ...ip, port, scope: ip.family === 6 ? scope : 0 }));

export const allowedIp: fc.Arbitrary<AllowedIp> = fc.tuple(address, fc.nat(128)).map(([ip, length]) => {
  const cidr = Math.min(length, ip.address.length * 8);
  const masked = ip.address.slice();
  mask(masked, cidr);
  return { family: ip.family, address: masked, cidr };
});

const peer: fc.Arbitrary<PeerState> = fc.record(
  {
    publicKey: key,
    presharedKey: key,
    endpoint: fc.option(endpoint),
    lastHandshake: fc.record({ sec: fc.nat(2 ** 31 - 1), nsec: fc.integer({ min: 1, max: 999_999_999 }) }, ordinary),
    txBytes: fc.bigInt(0n, UINT64_MAX),
    rxBytes: fc.bigInt(0n, UINT64_MAX),
    persistentKeepalive: fc.nat(65535),
    allowedIps: fc.array(allowedIp, { maxLength: 8 }),
  },
  ordinary,
);

/** As a device can be: no two peers with one key, no prefix with two owners. */
export const deviceState: fc.Arbitrary<DeviceState> = fc
  .record(
    {
      privateKey: fc.option(key.filter((it) => it.some((byte) => byte !== 0))),
      listenPort: fc.nat(65535),
      fwmark: fc.nat(0xffffffff),
      peers: fc.uniqueArray(peer, { maxLength: 6, selector: (it) => String(it.publicKey) }),
    },
    ordinary,
  )
  .map((state) => {
    const owned = new Set<string>();
    const own = (ip: AllowedIp) => !owned.has(formatPrefix(ip)) && owned.add(formatPrefix(ip));
    for (const it of state.peers) it.allowedIps = it.allowedIps.filter(own);
    return state;
  });
