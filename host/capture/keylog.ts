// The key log: what it takes to decrypt a capture, in the text format that Wireshark reads (wg.keylog_file, and the
// decryption secrets of a pcapng). A secret file, written only when the user asks for one.
//
// A handshake is four lines: our static private key, the peer's static public key, our ephemeral private key, and the
// preshared key if there is one. With either side's lines alone Wireshark can follow the session.

import { WasmguardError } from "../errors.ts";
import { decodeBase64Key, encodeBase64Key, isZeroKey } from "../keys.ts";

/** 32 bytes each. */
export interface HandshakeKeys {
  localStaticPrivate: Uint8Array;
  remoteStaticPublic: Uint8Array;
  localEphemeralPrivate: Uint8Array;
  presharedKey: Uint8Array;
}

/** What a key log holds, for whoever decrypts: any of the static keys may belong to any of the ephemeral ones. */
export interface KeyLog {
  staticPrivate: Uint8Array[];
  staticPublic: Uint8Array[];
  ephemerals: { privateKey: Uint8Array; presharedKey: Uint8Array | null }[];
}

/** The lines of one handshake, ending in a line feed. */
export function formatKeys(keys: HandshakeKeys): string {
  const lines = [
    `LOCAL_STATIC_PRIVATE_KEY = ${encodeBase64Key(keys.localStaticPrivate)}`,
    `REMOTE_STATIC_PUBLIC_KEY = ${encodeBase64Key(keys.remoteStaticPublic)}`,
    `LOCAL_EPHEMERAL_PRIVATE_KEY = ${encodeBase64Key(keys.localEphemeralPrivate)}`,
  ];
  if (!isZeroKey(keys.presharedKey)) lines.push(`PRESHARED_KEY = ${encodeBase64Key(keys.presharedKey)}`);
  return `${lines.join("\n")}\n`;
}

/** @throws WasmguardError ERR_KEY_LOG with the line's number, never with its value */
export function parseKeyLog(text: string): KeyLog {
  const log: KeyLog = { staticPrivate: [], staticPublic: [], ephemerals: [] };
  text.split("\n").forEach((raw, index) => {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) return;
    const equals = line.indexOf("=");
    const name = line.slice(0, Math.max(0, equals)).trim();
    const add = ADDERS[name];
    const refuse = (why: string) => new WasmguardError("ERR_KEY_LOG", `Key log, line ${index + 1}: ${why}`);
    if (!add) throw refuse("it is none of LOCAL_STATIC_PRIVATE_KEY, REMOTE_STATIC_PUBLIC_KEY, LOCAL_EPHEMERAL_PRIVATE_KEY, PRESHARED_KEY");
    let key: Uint8Array;
    try {
      key = decodeBase64Key(line.slice(equals + 1).trim());
    } catch (error) {
      throw refuse((error as Error).message);
    }
    if (!add(log, key)) throw refuse("a preshared key comes after the ephemeral key that it goes with");
  });
  return log;
}

const ADDERS: Record<string, ((log: KeyLog, key: Uint8Array) => boolean) | undefined> = {
  LOCAL_STATIC_PRIVATE_KEY: (log, key) => addOnce(log.staticPrivate, key),
  REMOTE_STATIC_PUBLIC_KEY: (log, key) => addOnce(log.staticPublic, key),
  LOCAL_EPHEMERAL_PRIVATE_KEY: (log, privateKey) => log.ephemerals.push({ privateKey, presharedKey: null }) > 0,
  PRESHARED_KEY: (log, key) => {
    const last = log.ephemerals.at(-1);
    if (last) last.presharedKey = key;
    return last !== undefined;
  },
};

// A log repeats the static keys with each handshake.
function addOnce(keys: Uint8Array[], key: Uint8Array): boolean {
  if (!keys.some((known) => known.every((byte, i) => byte === key[i]))) keys.push(key);
  return true;
}
