// Addresses, prefixes and endpoints: against node:net and the URL parser, then the record of the core.

import assert from "node:assert";
import { isIPv4, isIPv6 } from "node:net";
import fc from "fast-check";
import { suite } from "uvu";
import { ENDPOINT_ADDR, ENDPOINT_LEN, ENDPOINT_PORT, ENDPOINT_SRC_FAMILY } from "../../assembly/abi.ts";
import { decodeEndpoint, encodeEndpoint, formatEndpoint, isAddress, parseEndpoint } from "../../host/endpoint.ts";
import { formatIp, formatPrefix, parseInterfaceAddress, parseIp, parsePrefix, tryParseIp } from "../../host/ip.ts";
import { address, endpoint } from "./arbitrary.ts";

const ip = suite("IP addresses");

ip("what is written is read back, and is what the URL parser writes", () => {
  fc.assert(
    fc.property(address, ({ family, address }) => {
      const text = formatIp(address);
      assert.deepStrictEqual(parseIp(text), { family, address });
      if (family === 4) assert.ok(isIPv4(text));
      else if (!text.includes(".")) assert.strictEqual(`[${text}]`, new URL(`http://[${text}]`).hostname);
    }),
  );
});

ip("RFC 5952 by example", () => {
  for (const [from, to] of [
    ["2001:DB8::0001", "2001:db8::1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["0:0:0:0:0:0:0:0", "::"],
    ["1::", "1::"],
    ["::ffff:192.0.2.1", "::ffff:192.0.2.1"],
    ["::ffff:c000:201", "::ffff:192.0.2.1"],
    ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ]) {
    assert.strictEqual(formatIp(parseIp(from).address), to);
  }
});

ip("accepts exactly what inet_pton does", () => {
  const piece = fc.constantFrom(
    "0",
    "1",
    "01",
    "255",
    "256",
    "ffff",
    "fffff",
    "g",
    ".",
    ":",
    "::",
    ":",
    ".",
    "1.2.3.4",
  );
  const near = fc.array(piece, { maxLength: 17 }).map((parts) => parts.join(""));
  fc.assert(
    fc.property(fc.oneof(near, fc.string()), (text) => {
      assert.strictEqual(tryParseIp(text) !== null, isIPv4(text) || (isIPv6(text) && !text.includes("%")), text);
    }),
    { numRuns: 2000 },
  );
  for (const text of [
    "010.0.0.1",
    "1.2.3",
    "1.2.3.4.5",
    "0x1.2.3.4",
    "1.2.3.4 ",
    ":::",
    "1::2::3",
    "::1.2.3.4:1",
    "1:2:3:4:5:6:7::8",
    "",
  ]) {
    assert.strictEqual(tryParseIp(text), null, text);
  }
});

ip("a prefix is masked, at every length", () => {
  for (const family of [4, 6] as const) {
    const bits = family === 4 ? 32 : 128;
    const text = family === 4 ? "255.255.255.255" : "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (let cidr = 0; cidr <= bits; cidr++) {
      const prefix = parsePrefix(`${text}/${cidr}`);
      const ones = [...prefix.address].map((byte) => byte.toString(2).padStart(8, "0")).join("");
      assert.strictEqual(ones, "1".repeat(cidr).padEnd(bits, "0"));
      assert.deepStrictEqual(parsePrefix(formatPrefix(prefix)), prefix);
    }
  }
  assert.strictEqual(formatPrefix(parseInterfaceAddress("10.1.2.3/8")), "10.1.2.3/8");
  assert.strictEqual(formatPrefix(parsePrefix("10.1.2.3", true)), "10.1.2.3/32");
  assert.strictEqual(formatPrefix(parsePrefix("fe80::1", true)), "fe80::1/128");
});

ip("a prefix that is none is refused by name", () => {
  assert.throws(() => parsePrefix("10.0.0.1"), /"10.0.0.1" has no \/cidr/);
  for (const text of ["10.0.0.0/33", "::/129", "1.2.3.4/", "1.2.3.4/08", "1.2.3.4/+8", "1.2.3.4/-1", "1.2.3.4/8/8"]) {
    assert.throws(() => parsePrefix(text), /prefix length .* is not in 0\.\.(32|128)/, text);
  }
  assert.throws(() => parsePrefix("fe80::1%3/64"), /not an IP address/);
});

ip.run();

const endpoints = suite("endpoints");
const interfaceIndex = (name: string) => (name === "eth0" ? 7 : 0);

endpoints("what is written is read back", () => {
  fc.assert(fc.property(endpoint, (it) => assert.deepStrictEqual(parseEndpoint(formatEndpoint(it)), it)));
});

endpoints("a scope is a number or an interface", () => {
  assert.strictEqual(parseEndpoint("[fe80::1%3]:51820").scope, 3);
  assert.strictEqual(parseEndpoint("[fe80::1%eth0]:51820", interfaceIndex).scope, 7);
  assert.strictEqual(formatEndpoint(parseEndpoint("[fe80::1%eth0]:51820", interfaceIndex)), "[fe80::1%7]:51820");
  assert.throws(() => parseEndpoint("[fe80::1%eth1]:51820", interfaceIndex), /scope "eth1" is no network interface/);
  assert.throws(() => parseEndpoint("[fe80::1%eth0]:51820"), /scope "eth0"/);
  assert.throws(() => parseEndpoint("[fe80::1%4294967296]:1"), /scope/);
  assert.throws(() => parseEndpoint("[fe80::1%]:1"), /scope/);
  assert.throws(() => parseEndpoint("10.0.0.1%3:1"), /only IPv6/);
});

endpoints("what is wrong is named", () => {
  assert.throws(() => parseEndpoint("10.0.0.1:70000"), /port "70000" is not in 1..65535/);
  for (const port of ["0", "00", "080", "65536", "+1", " 1", "1 ", "http", "0x50"]) {
    assert.throws(() => parseEndpoint(`10.0.0.1:${port}`), /port .* is not in/, port);
  }
  for (const text of ["", "10.0.0.1", "10.0.0.1:", "[::1]", "[::1]:"]) {
    assert.throws(() => parseEndpoint(text), /has no :port/, text);
  }
  for (const text of ["::1:80", "[10.0.0.1]:80", "[::1:80", "1:2:3:4:5:6:7:8:80"]) {
    assert.throws(() => parseEndpoint(text), /brackets|not an IP address/, text);
  }
  for (const text of ["host:80", "[]:80", ":80", "[::g]:80", "[[::1]]:80", "[::1]x:80"]) {
    assert.throws(() => parseEndpoint(text), RangeError, text);
  }
});

endpoints("garbage is a RangeError, never another", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        parseEndpoint(text);
      } catch (error) {
        assert.ok(error instanceof RangeError);
      }
    }),
  );
});

endpoints("an address is told from a host name", () => {
  for (const host of ["1.2.3.4", "::1", "fe80::1%eth0"]) assert.ok(isAddress(host));
  for (const host of ["example.org", "1.2.3", "localhost", ""]) assert.ok(!isAddress(host));
});

endpoints.run();

const record = suite("ENDPOINT record");

record("encoded and decoded is the same, and touches its 48 bytes only", () => {
  fc.assert(
    fc.property(fc.option(endpoint), fc.nat(16), (it, at) => {
      const bytes = new Uint8Array(new SharedArrayBuffer(ENDPOINT_LEN + 32)).fill(0xee);
      const view = new DataView(bytes.buffer, 8);
      encodeEndpoint(view, at, it);
      assert.deepStrictEqual(decodeEndpoint(view, at), it);
      assert.ok(bytes.subarray(0, 8 + at).every((byte) => byte === 0xee));
      assert.ok(bytes.subarray(8 + at + ENDPOINT_LEN).every((byte) => byte === 0xee));
    }),
  );
});

record("port and address lie in network order, the sticky source is cleared", () => {
  const view = new DataView(new ArrayBuffer(ENDPOINT_LEN));
  view.setUint32(ENDPOINT_SRC_FAMILY, 4, true);
  encodeEndpoint(view, 0, parseEndpoint("192.0.2.1:51820"));
  assert.deepStrictEqual([view.getUint8(ENDPOINT_PORT), view.getUint8(ENDPOINT_PORT + 1)], [51820 >> 8, 51820 & 255]);
  assert.strictEqual(view.getUint32(ENDPOINT_ADDR, false), 0xc0000201);
  assert.strictEqual(view.getUint32(ENDPOINT_SRC_FAMILY, true), 0);
});

record.run();
