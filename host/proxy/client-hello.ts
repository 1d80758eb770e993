// The server name of a TLS ClientHello: RFC 8446 §4.1.2 and RFC 6066 §3, in records of RFC 8446 §5.1. Pure; called
// again with more bytes until it knows. Nothing is trusted: every length is checked against the one around it.

const RECORD_HANDSHAKE = 22;
const HANDSHAKE_CLIENT_HELLO = 1;
const EXTENSION_SERVER_NAME = 0;
const NAME_TYPE_HOST = 0;
const RECORD_HEADER_LEN = 5;
const RANDOM_LEN = 32;

/** No ClientHello is longer, key shares of post-quantum kind and padding included. */
export const CLIENT_HELLO_MAX_LEN = 16384;

/** @returns the name; "more" before the whole hello is there; null when it is none, or names no server */
export function serverName(bytes: Uint8Array): string | "more" | null {
  const hello = assemble(bytes);
  return typeof hello === "string" || hello === null ? (hello as "more" | null) : readServerName(hello);
}

/** Records that a hello may be cut into: libraries make one or two, and more only cost our time. */
const RECORDS_MAX = 4096;

/** The body of the handshake message, from one record or several; they are joined once, when all of them are there. */
function assemble(bytes: Uint8Array): Uint8Array | "more" | null {
  const parts: Uint8Array[] = [];
  let have = 0;
  /** of the message, known with its first four bytes */
  let wanted = Infinity;
  for (let at = 0; parts.length < RECORDS_MAX;) {
    if (bytes.length > at && bytes[at] !== RECORD_HANDSHAKE) return null;
    if (bytes.length < at + RECORD_HEADER_LEN) return "more";
    const length = (bytes[at + 3] << 8) | bytes[at + 4];
    if (bytes[at + 1] !== 3 || length === 0) return null;
    const part = bytes.subarray(at + RECORD_HEADER_LEN, at + RECORD_HEADER_LEN + length);
    parts.push(part);
    have += part.length;
    const head = have - part.length < 4 ? concat(parts, have) : null;
    if (head && head.length > 0 && head[0] !== HANDSHAKE_CLIENT_HELLO) return null;
    if (head && head.length >= 4) {
      wanted = (head[1] << 16) | (head[2] << 8) | head[3];
      if (wanted > CLIENT_HELLO_MAX_LEN) return null;
    }
    if (have >= 4 + wanted) return concat(parts, have).subarray(4, 4 + wanted);
    if (part.length < length) return "more";
    at += RECORD_HEADER_LEN + length;
  }
  return null;
}

function readServerName(hello: Uint8Array): string | null {
  let at = 2 + RANDOM_LEN;
  at += 1 + (hello[at] ?? 0); // session id
  at += 2 + u16(hello, at); // cipher suites
  at += 1 + (hello[at] ?? 0); // compression methods
  const end = at + 2 + u16(hello, at);
  if (end > hello.length) return null;
  for (at += 2; at + 4 <= end;) {
    const type = u16(hello, at);
    const length = u16(hello, at + 2);
    at += 4;
    if (at + length > end) return null;
    if (type === EXTENSION_SERVER_NAME) return readNameList(hello.subarray(at, at + length));
    at += length;
  }
  return null;
}

function readNameList(list: Uint8Array): string | null {
  for (let at = 2; at + 3 <= list.length;) {
    const length = u16(list, at + 1);
    const name = list.subarray(at + 3, at + 3 + length);
    if (name.length < length) return null;
    if (list[at] === NAME_TYPE_HOST) {
      const text = new TextDecoder("latin1").decode(name);
      return /^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$/i.test(text) && text.length <= 253 ? text : null;
    }
    at += 3 + length;
  }
  return null;
}

/** 0xffff, which fits nowhere, beyond the end. */
function u16(bytes: Uint8Array, at: number): number {
  return at + 2 <= bytes.length ? (bytes[at] << 8) | bytes[at + 1] : 0xffff;
}

function concat(parts: Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
