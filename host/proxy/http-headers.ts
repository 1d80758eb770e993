// What a proxy does to a message's headers: RFC 9110 §7.6. Hop-by-hop fields go, Via is added (§7.6.3: it must be),
// Host is the target's (RFC 9112 §3.2.2). Names keep their case and order. Pure; lists are name, value, name, value.

/** RFC 9110 §7.6.1, and Proxy-Connection, which browsers send and nobody defined. */
const HOP_BY_HOP = [
  "connection",
  "keep-alive",
  "proxy-connection",
  "proxy-authenticate",
  "proxy-authorization",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

/** Our pseudonym: a Via with our address would tell the far end about this side. */
const VIA = "1.1 wasmguard";

/** How long a message is and whose: no Connection field takes these away, or a body becomes the next request. */
const NEVER_NAMED = ["close", "content-length", "host"];

export interface HeaderOptions {
  /** keep Connection and Upgrade: the message changes the protocol */
  upgrade?: boolean;
}

/** The fields that go on to the other side. */
export function forwarded(raw: readonly string[], { upgrade = false }: HeaderOptions = {}): string[] {
  const named = namedByConnection(raw);
  // RFC 9112 §6.3: of the two lengths the chunks count, and the other one must not go on.
  const isChunked = values(raw, "transfer-encoding").length > 0;
  const kept: string[] = [];
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i].toLowerCase();
    if (isChunked && name === "content-length") continue;
    if (upgrade && (name === "upgrade" || named.has(name))) {
      if (!HOP_BY_HOP.includes(name) || name === "upgrade") kept.push(raw[i], raw[i + 1]);
    } else if (!HOP_BY_HOP.includes(name) && !named.has(name) && name !== "via") {
      kept.push(raw[i], raw[i + 1]);
    }
  }
  if (upgrade)
    kept.push("Connection", ["Upgrade", ...named].filter((name, i) => i === 0 || name !== "upgrade").join(", "));
  const via = values(raw, "via");
  kept.push("Via", [...via, VIA].join(", "));
  return kept;
}

/** The same for a request to a host. */
export function requestHeaders(raw: readonly string[], host: string, options?: HeaderOptions): string[] {
  const kept = forwarded(raw, options);
  const list = ["Host", host];
  for (let i = 0; i < kept.length; i += 2) if (kept[i].toLowerCase() !== "host") list.push(kept[i], kept[i + 1]);
  // The body keeps its framing: without this one the body of a GET would be taken for the next request.
  if (values(raw, "transfer-encoding").length > 0) list.push("Transfer-Encoding", "chunked");
  return list;
}

/** As http.request takes them: fields of the same name together. */
export function toObject(list: readonly string[]): Record<string, string | string[]> {
  const names = new Map<string, string>();
  const object: Record<string, string | string[]> = Object.create(null);
  for (let i = 0; i < list.length; i += 2) {
    const name = names.get(list[i].toLowerCase()) ?? list[i];
    names.set(name.toLowerCase(), name);
    const before = object[name];
    object[name] = before === undefined ? list[i + 1] : [...(Array.isArray(before) ? before : [before]), list[i + 1]];
  }
  return object;
}

/** Lines as they stand on the wire. */
export function toText(list: readonly string[]): string {
  let text = "";
  for (let i = 0; i < list.length; i += 2) text += `${list[i]}: ${list[i + 1]}\r\n`;
  return text;
}

function values(raw: readonly string[], name: string): string[] {
  return raw.filter((_, i) => i % 2 === 1 && raw[i - 1].toLowerCase() === name);
}

function namedByConnection(raw: readonly string[]): Set<string> {
  const names = values(raw, "connection").join(",").split(",");
  const plain = names.map((name) => name.trim().toLowerCase());
  return new Set(plain.filter((name) => name !== "" && !NEVER_NAMED.includes(name)));
}
