// A self-signed certificate for tests of TLS: X.509 v3 (RFC 5280 §4.1) put together as DER, signed by node:crypto, which
// makes keys but no certificates. Nothing is read from a disk, and no program is needed.

import { generateKeyPairSync, sign } from "node:crypto";
import { parseIp } from "../../host/ip.ts";

function der(tag: number, ...contents: Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  const head = length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Uint8Array.from(head), content]);
}

const sequence = (...contents: Uint8Array[]): Buffer => der(0x30, ...contents);
const text = (value: string): Buffer => Buffer.from(value, "latin1");
const ECDSA_WITH_SHA256 = sequence(der(6, Uint8Array.of(0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2)));
const COMMON_NAME = der(6, Uint8Array.of(0x55, 4, 3));
const SUBJECT_ALT_NAME = der(6, Uint8Array.of(0x55, 0x1d, 17));
const BASIC_CONSTRAINTS = der(6, Uint8Array.of(0x55, 0x1d, 19));

/** @param names  DNS names and addresses that it is good for, for a day around now */
export function selfSigned(...names: string[]): { key: string; cert: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const name = sequence(der(0x31, sequence(COMMON_NAME, der(0x0c, text(names[0])))));
  const time = (ms: number): Buffer => der(0x17, text(`${new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "").slice(2)}`));
  const altNames = names.map((value) => (/^[\d.]+$|:/.test(value) ? der(0x87, parseIp(value).address) : der(0x82, text(value))));
  const critical = der(1, Uint8Array.of(0xff));
  const body = sequence(
    der(0xa0, der(2, Uint8Array.of(2))),
    der(2, Uint8Array.of(1)),
    ECDSA_WITH_SHA256,
    name,
    sequence(time(Date.now() - 43_200_000), time(Date.now() + 43_200_000)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(
      sequence(BASIC_CONSTRAINTS, critical, der(4, sequence(critical))),
      sequence(SUBJECT_ALT_NAME, der(4, sequence(...altNames))),
    )),
  );
  const signature = sign("sha256", body, privateKey);
  const certificate = sequence(body, ECDSA_WITH_SHA256, der(3, Uint8Array.of(0), signature));
  const lines = certificate.toString("base64").match(/.{1,64}/g)!;
  return {
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`,
  };
}
