// DNS messages (RFC 1035, RFC 6891), as a stub resolver needs them: one question out, addresses or a reason back. The
// wire format is the work of @leichtgewicht/dns-packet; this file decides what of an answer is believed.

import { decode, encode, RECURSION_DESIRED, type Answer, type Packet } from "@leichtgewicht/dns-packet";
import { type IpAddress, tryParseIp } from "../ip.ts";

export type QueryType = "A" | "AAAA";

/** UDP payload that we take: no fragment on any sane path. RFC 9715 §3.1 */
const UDP_PAYLOAD_SIZE = 1232;
/** aliases in one answer; more are a loop or a joke */
const CNAMES_MAX = 16;
/** seconds. RFC 8767 §4 would have 7 days at most; a stub can ask again every day */
const TTL_MAX_S = 86_400;
/** RFC 2308 §5: 1 to 3 hours are sensible; a name that has just been made should not wait for so long */
const NEGATIVE_TTL_MAX_S = 900;

/** What an answer means for the question. */
export type DnsResult =
  | { kind: "addresses"; addresses: IpAddress[]; ttlS: number }
  /** no such name, or no address of this type; ttlS 0 = not to be kept (RFC 2308 §5: no SOA) */
  | { kind: "none"; nameExists: boolean; ttlS: number }
  /** the answer ends with an alias: ask for that */
  | { kind: "alias"; name: string; ttlS: number }
  /** ask again by TCP */
  | { kind: "truncated" }
  /** the server does not know EDNS */
  | { kind: "noEdns" }
  /** the server cannot or will not say */
  | { kind: "failure"; code: string };

/** @param name  without the dot at the end; ASCII */
export function encodeQuery(id: number, name: string, type: QueryType, edns: boolean): Uint8Array {
  const packet: Packet = { type: "query", id, flags: RECURSION_DESIRED, questions: [{ type, name }] };
  if (edns) {
    const opt = { type: "OPT", name: ".", udpPayloadSize: UDP_PAYLOAD_SIZE, flags: 0, options: [] };
    packet.additionals = [opt as unknown as Answer];
  }
  return encode(packet);
}

/**
 * Reads what came from the server.
 * @returns null when it is no answer to this question: whoever asked goes on waiting
 */
export function readAnswer(message: Uint8Array, id: number, name: string, type: QueryType): DnsResult | null {
  let packet: Packet;
  try {
    packet = decode(message);
  } catch {
    return null;
  }
  if (packet.type !== "response" || packet.id !== id || packet.opcode !== "QUERY") return null;
  const { questions = [], rcode } = packet;
  // A server that cannot read the question may leave it out.
  if (questions.length === 0 && (rcode === "FORMERR" || rcode === "NOTIMP")) return { kind: "noEdns" };
  if (questions.length !== 1) return null;
  const [question] = questions;
  if (question.type !== type || question.class !== "IN" || !sameName(question.name, name)) return null;
  if (packet.flag_tc) return { kind: "truncated" };
  switch (rcode) {
    case "NOERROR":
    case "NXDOMAIN":
      return readRecords(packet, name, type, rcode === "NOERROR");
    case "FORMERR":
    case "NOTIMP":
      return { kind: "noEdns" };
    default:
      return { kind: "failure", code: String(rcode) };
  }
}

/** Follows the aliases from the name to its addresses. RFC 1034 §3.6.2, RFC 2308 §2 */
function readRecords(packet: Packet, name: string, type: QueryType, nameExists: boolean): DnsResult {
  const answers = (packet.answers ?? []).filter((answer) => answer.class === "IN");
  let owner = name;
  let ttlS = TTL_MAX_S;
  for (let count = 0; count < CNAMES_MAX; count++) {
    const alias = answers.find((answer) => answer.type === "CNAME" && sameName(answer.name, owner));
    if (alias === undefined) break;
    owner = String(alias.data);
    ttlS = Math.min(ttlS, alias.ttl ?? 0);
  }
  const addresses: IpAddress[] = [];
  for (const answer of answers) {
    if (answer.type !== type || !sameName(answer.name, owner)) continue;
    const ip = tryParseIp(String(answer.data));
    if (ip === null || (ip.family === 4) !== (type === "A")) continue;
    addresses.push(ip);
    ttlS = Math.min(ttlS, answer.ttl ?? 0);
  }
  if (addresses.length > 0) return { kind: "addresses", addresses, ttlS };
  const negativeTtlS = Math.min(ttlS, negativeTtl(packet.authorities ?? []));
  if (nameExists && negativeTtlS === 0 && !sameName(owner, name)) return { kind: "alias", name: owner, ttlS };
  return { kind: "none", nameExists, ttlS: negativeTtlS };
}

/** RFC 2308 §5: the lesser of the SOA's TTL and its last field. */
function negativeTtl(authorities: Answer[]): number {
  for (const record of authorities) {
    if (record.type === "SOA") return Math.min(record.ttl ?? 0, record.data.minimum ?? 0, NEGATIVE_TTL_MAX_S);
  }
  return 0;
}

/** ASCII letters without case. RFC 4343 */
function sameName(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}
