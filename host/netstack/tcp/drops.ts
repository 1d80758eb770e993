// Why segments are dropped: one name and one counter a reason, so that a test or an operator can tell them apart.

const REASONS = [
  /** shorter than a header */
  "short",
  /** data offset inside the header or behind the segment */
  "dataOffset",
  /** an option with length 0 or 1, behind the header, or of a length that its kind does not have */
  "option",
  /** SYN with FIN or RST, or no flag at all */
  "flags",
  /** port 0 */
  "port",
  /** source or destination is no address of one host */
  "address",
  /** nobody listens, no connection: answered with RST */
  "noConnection",
  /** RST for nobody, or not where we are */
  "strayReset",
  /** not acceptable: outside of the receive window (answered with an ACK) */
  "outOfWindow",
  /** RFC 7323 §5.3: older than what came before */
  "paws",
  /** RFC 5961 §5: acknowledges what was never sent, or long ago */
  "badAck",
  /** RFC 5961 §4: SYN in a synchronized state */
  "badSyn",
  /** no ACK flag where there must be one */
  "noAck",
  /** more gaps than we keep */
  "islands",
  /** a half-open connection gave way to a newer one */
  "backlog",
  /** too many connections */
  "connections",
  /** data for a connection that nobody reads: answered with RST */
  "nobodyReads",
  /** too many segments within one call */
  "deferred",
  /** an ICMP error about what we have not in flight */
  "strayError",
] as const;

export type DropReason = (typeof REASONS)[number];
export type Drops = Record<DropReason, number>;

export function createDrops(): Drops {
  const drops: Partial<Drops> = {};
  for (const reason of REASONS) drops[reason] = 0;
  return drops as Drops;
}
