// A certificate for localhost and origin.test, signed by itself, as node:tls takes it.
// Node makes keys and signatures, not certificates, so the little ASN.1 that is needed is written here.

import { createSign, generateKeyPairSync } from "node:crypto";

let made: { cert: string; key: string } | undefined;

/** One a process: PEM of the certificate and of its key. */
export function certificate(): { cert: string; key: string } {
  return (made ??= make(["localhost", "origin.test"]));
}

const SEQUENCE = 0x30;
const SET = 0x31;

function make(names: string[]): { cert: string; key: string } {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const ecdsaWithSha256 = der(SEQUENCE, oid("2a8648ce3d040302"));
  const name = der(SEQUENCE, der(SET, der(SEQUENCE, oid("550403"), der(0x0c, Buffer.from(names[0])))));
  const time = (date: Date): Buffer => der(0x18, Buffer.from(date.toISOString().replace(/[-:T]|\.\d+/g, "")));
  const validity = der(SEQUENCE, time(new Date(Date.now() - 86400e3)), time(new Date(Date.now() + 86400e3)));
  const altNames = der(SEQUENCE, ...names.map((each) => der(0x82, Buffer.from(each))));
  const extensions = der(
    0xa3,
    der(
      SEQUENCE,
      der(SEQUENCE, oid("551d11"), der(0x04, altNames)),
      der(
        SEQUENCE,
        oid("551d13"),
        der(0x01, Buffer.from([0xff])),
        der(0x04, der(SEQUENCE, der(0x01, Buffer.from([0xff])))),
      ),
    ),
  );
  const toSign = der(
    SEQUENCE,
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.from([1])),
    ecdsaWithSha256,
    name,
    validity,
    name,
    publicKey.export({ type: "spki", format: "der" }),
    extensions,
  );
  const signature = createSign("sha256").update(toSign).sign(privateKey);
  const whole = der(SEQUENCE, toSign, ecdsaWithSha256, der(0x03, Buffer.from([0]), signature));
  const lines = whole
    .toString("base64")
    .match(/.{1,64}/g)!
    .join("\n");
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: "pkcs8", format: "pem" }) as string,
  };
}

function oid(hex: string): Buffer {
  return der(0x06, Buffer.from(hex, "hex"));
}

function der(tag: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length = body.length;
  const head = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...head]), body]);
}
