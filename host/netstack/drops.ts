// Why the stack refused a packet, and how often. A packet that is counted here had no other effect, but perhaps an ICMP
// error. The names are an interface: metrics and tests use them.

export const DROP_REASONS = [
  // the IP header
  "truncated", // shorter than its headers say
  "badVersion",
  "badHeaderLength",
  "badLength", // the length of the header is not in the packet, or a jumbogram
  "badHeaderChecksum",
  "badOption", // IPv4 options, or an extension header, malformed or not to be ignored
  "sourceRoute", // IPv4 source routes, IPv6 routing type 0 (RFC 5095)
  "tooManyHeaders",
  "badSource", // multicast, unspecified, loopback or our own
  "notOurs", // the destination
  "noNextHeader", // RFC 8200 §4.7
  "noProtocol",
  // fragments
  "badFragment", // odd length, past the end, or without the whole chain of headers (RFC 7112)
  "fragmentDuplicate",
  "fragmentOverlap", // RFC 5722
  "tooManyFragments", // of one packet, which is given up
  "fragmentTimeout", // counted once a packet that never became whole
  "fragmentEvicted", // counted once a packet that made room for newer ones
  // the transport
  "badChecksum",
  "badTransport", // shorter than its header, or its length lies
  "noPort",
  "badIcmp", // a message that is malformed
  "ignoredIcmp", // a message that is nobody's, or of a type that a host does not answer
  // ourselves
  "loopbackFull",
  "closed",
] as const;

export type DropReason = (typeof DROP_REASONS)[number];

export type Drops = Record<DropReason, number>;

export function createDrops(): Drops {
  return Object.fromEntries(DROP_REASONS.map((reason) => [reason, 0])) as Drops;
}
