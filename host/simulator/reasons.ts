// Why something was refused, and what an event means, in one plain sentence each: for the history of the lab's page and
// for stepping a trace. The names are those of assembly/abi.ts, in lower case.

/** By drop reason. */
export const REASONS: Record<string, string> = {
  truncated: "The datagram is too short to have a message type, or it was cut off.",
  bad_length: "The datagram does not have the length of its message type.",
  bad_type: "The type is unknown, or one of the three reserved bytes is not zero.",
  bad_mac1:
    "mac1 is wrong: a bit was changed, or the sender has another public key of the receiver. Checked first, because it costs almost nothing.",
  bad_mac2:
    "The receiver is under load and mac2 is not made with its cookie, so it did no costly work and sent a cookie instead.",
  rate_limited: "This address sent too many handshake messages while the receiver is under load.",
  handshake_queue_full: "Too many handshake messages were waiting already.",
  bad_handshake: "A sealed field does not decrypt: another preshared key, another static key, or a changed field.",
  unknown_peer: "The sender proved who it is, and nobody here has configured it.",
  old_timestamp: "The timestamp is not later than the last one of this peer: a replay, or a clock that went back.",
  handshake_flood: "This peer began another handshake less than 20 ms after the last one.",
  unknown_index: "No session and no handshake has this receiver index: it is over, or it never was.",
  unexpected_response: "This is a response, and no initiation waits for one.",
  bad_cookie: "The cookie reply does not decrypt, or nobody asked for it.",
  session_expired: "The session is older than 180 seconds, or its counter is used up.",
  bad_tag: "The authentication tag is wrong: a byte was changed, or the keys differ.",
  replayed: "This counter was seen before, or lies too far behind the newest one.",
  bad_inner: "It decrypted, and what was inside is not an IP packet.",
  bad_source: "The packet inside comes from an address that is not among this peer's allowed IPs.",
  device_down: "The device is down and accepts nothing.",
  no_private_key: "The device has no private key, so nobody can shake hands with it.",
  out_not_ip: "What was to be sent is not an IP packet.",
  out_no_route: "No peer's allowed IPs hold the destination.",
  out_no_endpoint: "The peer's address is not known yet: it has to speak first.",
  out_too_long: "The packet is longer than a datagram can be.",
  out_staged_overflow: "Too many packets waited for the handshake; the oldest was dropped.",
  out_pool_full: "All the room for waiting packets is used.",
  out_device_down: "The device is down and sends nothing.",
  out_staged_purged: "The handshake was given up, and what waited for it was dropped.",
  out_bad_offload: "The packet's offload header cannot be true.",
};

/** By event. */
export const EVENTS: Record<string, string> = {
  initiation_sent: "sent a handshake initiation",
  initiation_received: "got a handshake initiation that is authentic",
  response_sent: "accepted the initiation and answered it",
  handshake_complete: "has everything it takes: a session is derived",
  session_confirmed: "got the first packet under the new keys: now it uses them, too",
  handshake_given_up: "gave the handshake up after 90 seconds",
  keepalive_sent: "sent a keepalive",
  roamed: "follows the peer to its new address",
  cookie_received: "took the cookie, and will put mac2 into its next handshake message",
  cookie_sent: "sent a cookie instead of an answer",
  under_load: "went under load, or came out of it",
  peer_silent: "heard nothing for 15 seconds and takes the session for dead",
  keys_zeroed: "wiped every key: no new session for 9 minutes",
};

/** "bad_mac1", or "bad_mac1 (3)". @returns undefined for a name that is none */
export function explain(name: string): string | undefined {
  const bare = name.replace(/ \(.*\)$/, "");
  return REASONS[bare] ?? EVENTS[bare];
}
