// Keys as text: base64 in files and on screen, hex in the UAPI; and the making of new ones. Text is read and written by
// arithmetic, without a branch or a table index that depends on a key, and judged once at the end. Strict: exactly one
// text stands for a key. The curve itself is the core's: `pubkey` passes through there.

/** bytes of every WireGuard key: private, public, preshared */
export const KEY_LEN = 32;
export const KEY_BASE64_LEN = 44;
export const KEY_HEX_LEN = 64;

/** 32 bytes from 44 characters of base64. @throws RangeError that names the problem, never the text */
export function decodeBase64Key(text: string): Uint8Array {
  if (text.length !== KEY_BASE64_LEN) {
    throw new RangeError(`key has ${text.length} characters of base64, not ${KEY_BASE64_LEN}`);
  }
  if (!text.endsWith("=")) throw new RangeError('key does not end in "="');
  const key = new Uint8Array(KEY_LEN);
  let bad = 0;
  let rest = 0; // what the last group has beyond the key's last byte
  for (let group = 0; group < KEY_BASE64_LEN / 4; group++) {
    let bits = 0;
    for (let at = group * 4; at < group * 4 + 4; at++) {
      const value = at === KEY_BASE64_LEN - 1 ? 0 : base64Value(text.charCodeAt(at));
      bad |= value;
      bits = (bits << 6) | (value & 63);
    }
    key[group * 3] = bits >> 16;
    key[group * 3 + 1] = bits >> 8;
    key[group * 3 + 2] = bits; // past the end in the last group: no effect
    rest = bits & 0xff;
  }
  if (bad < 0) throw new RangeError("key has a character that is not base64");
  if (rest !== 0) throw new RangeError("key is not canonical base64: its last bits are not 0");
  return key;
}

export function encodeBase64Key(key: Uint8Array): string {
  checkLength(key);
  const text = new Uint8Array(KEY_BASE64_LEN);
  for (let group = 0; group < KEY_BASE64_LEN / 4; group++) {
    const at = group * 3;
    const third = at + 2 < KEY_LEN ? key[at + 2] : 0;
    const bits = (key[at] << 16) | (key[at + 1] << 8) | third;
    for (let i = 0; i < 4; i++) text[group * 4 + i] = base64Character((bits >> (18 - 6 * i)) & 63);
  }
  text[KEY_BASE64_LEN - 1] = 0x3d; // "="
  return ascii(text);
}

/** 32 bytes from 64 characters of lower-case hex. @throws RangeError that names the problem, never the text */
export function decodeHexKey(text: string): Uint8Array {
  if (text.length !== KEY_HEX_LEN) throw new RangeError(`key has ${text.length} characters of hex, not ${KEY_HEX_LEN}`);
  const key = new Uint8Array(KEY_LEN);
  let bad = 0;
  for (let i = 0; i < KEY_LEN; i++) {
    const high = hexValue(text.charCodeAt(i * 2));
    const low = hexValue(text.charCodeAt(i * 2 + 1));
    bad |= high | low;
    key[i] = (high << 4) | (low & 15);
  }
  if (bad < 0) throw new RangeError("key has a character that is not lower-case hex");
  return key;
}

export function encodeHexKey(key: Uint8Array): string {
  checkLength(key);
  const text = new Uint8Array(KEY_HEX_LEN);
  for (let i = 0; i < KEY_LEN; i++) {
    text[i * 2] = hexCharacter(key[i] >> 4);
    text[i * 2 + 1] = hexCharacter(key[i] & 15);
  }
  return ascii(text);
}

/** 32 random bytes, clamped. RFC 7748 §5. */
export function generatePrivateKey(): Uint8Array {
  return clamp(generatePresharedKey());
}

/** 32 random bytes. */
export function generatePresharedKey(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(KEY_LEN));
}

/** Makes a scalar of 32 bytes, in place. RFC 7748 §5. */
export function clamp(key: Uint8Array): Uint8Array {
  key[0] &= 0xf8;
  key[KEY_LEN - 1] = (key[KEY_LEN - 1] & 0x7f) | 0x40;
  return key;
}

/** Whether the key is the "none" of the UAPI. Looks at every byte. */
export function isZeroKey(key: Uint8Array): boolean {
  let any = 0;
  for (let i = 0; i < key.length; i++) any |= key[i];
  return any === 0;
}

/** Equal bytes; for public keys, but as costly on secret ones. */
export function equalKeys(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < KEY_LEN; i++) difference |= a[i] ^ b[i];
  return difference === 0;
}

/** -1 where low <= x <= high, else 0: all its arithmetic is on small integers, so the sign bit decides. */
function within(x: number, low: number, high: number): number {
  return ~((x - low) >> 31) & ~((high - x) >> 31);
}

/** 0..63, or -1 for a character outside the alphabet of RFC 4648 §4. */
function base64Value(character: number): number {
  const upper = within(character, 0x41, 0x5a); // A-Z
  const lower = within(character, 0x61, 0x7a); // a-z
  const digit = within(character, 0x30, 0x39); // 0-9
  const plus = within(character, 0x2b, 0x2b);
  const slash = within(character, 0x2f, 0x2f);
  const value =
    (upper & (character - 0x41)) |
    (lower & (character - 0x61 + 26)) |
    (digit & (character - 0x30 + 52)) |
    (plus & 62) |
    (slash & 63);
  return value | ~(upper | lower | digit | plus | slash);
}

function base64Character(value: number): number {
  return (
    (within(value, 0, 25) & (value + 0x41)) |
    (within(value, 26, 51) & (value - 26 + 0x61)) |
    (within(value, 52, 61) & (value - 52 + 0x30)) |
    (within(value, 62, 62) & 0x2b) |
    (within(value, 63, 63) & 0x2f)
  );
}

/** 0..15, or -1 for a character that is not lower-case hex. */
function hexValue(character: number): number {
  const digit = within(character, 0x30, 0x39);
  const letter = within(character, 0x61, 0x66);
  return (digit & (character - 0x30)) | (letter & (character - 0x61 + 10)) | ~(digit | letter);
}

function hexCharacter(value: number): number {
  return (within(value, 0, 9) & (value + 0x30)) | (within(value, 10, 15) & (value - 10 + 0x61));
}

function checkLength(key: Uint8Array): void {
  if (key.length !== KEY_LEN) throw new RangeError(`key has ${key.length} bytes, not ${KEY_LEN}`);
}

function ascii(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
