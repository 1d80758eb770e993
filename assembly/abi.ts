// The contract between the core and its hosts: statuses, drop reasons, events and the offsets of every record
// that both sides read. Both asc and tsc read this file, so it holds only `export const NAME = <integer expression>`.
// Records that the core also has a class for are checked against it at compile time (memory.ts, tunnel/*.ts).

// --- status: what an export returns; a count, a length or a peer number when >= 0 ------------------------------
export const OK = 0;
export const BAD_TAG = -1; // authentication failed; nothing of the plaintext is left
export const REPLAYED = -2; // counter seen before, or older than the window
export const FULL = -3; // a pool of fixed size is exhausted
export const NOT_FOUND = -4; // no such peer, prefix or index
export const BAD_ARGUMENT = -5; // a value outside its range
export const OWN_KEY = -6; // the public key is the device's own
export const EXISTS = -7;
export const NO_RANDOM = -8; // the random pool of this thread must be refilled first
export const NO_KEY = -9; // the device has no private key, or the peer no session
export const BAD_MEMORY = -10; // the memory given is smaller than its own map
export const NO_ENDPOINT = -11; // the peer's address is not known
export const NOT_READY = -12; // device down, or called before deviceInit

// --- drop reasons: index into the device's counters (DEVICE_DROPS, u32 pairs = u64 each) -------------------------
export const DROP_NONE = 0;
// inbound datagrams
export const DROP_TRUNCATED = 1; // shorter than a message type, or cut by the receiver's buffer
export const DROP_BAD_LENGTH = 2; // not the length of its type
export const DROP_BAD_TYPE = 3; // unknown type, or reserved bytes not zero
export const DROP_BAD_MAC1 = 4;
export const DROP_BAD_MAC2 = 5; // under load and the cookie is missing or wrong: a cookie reply was sent
export const DROP_RATE_LIMITED = 6; // per-source handshake limiter
export const DROP_HANDSHAKE_QUEUE_FULL = 7;
export const DROP_BAD_HANDSHAKE = 8; // a handshake field does not decrypt, or a low-order point
export const DROP_UNKNOWN_PEER = 9; // authentic static key, but not of a configured peer
export const DROP_OLD_TIMESTAMP = 10; // initiation replayed
export const DROP_HANDSHAKE_FLOOD = 11; // more than 50 initiations a second from one peer
export const DROP_UNKNOWN_INDEX = 12; // receiver index of no session or handshake
export const DROP_UNEXPECTED_RESPONSE = 13; // a response, but no initiation of ours is waiting for it
export const DROP_BAD_COOKIE = 14; // cookie reply unasked for, or not authentic
export const DROP_SESSION_EXPIRED = 15; // session older than REJECT_AFTER_TIME, or its counter past the limit
export const DROP_BAD_TAG = 16;
export const DROP_REPLAYED = 17;
export const DROP_BAD_INNER = 18; // plaintext is not an IP packet, or its length field exceeds it
export const DROP_BAD_SOURCE = 19; // inner source not in the peer's allowed IPs
export const DROP_DEVICE_DOWN = 20;
export const DROP_NO_PRIVATE_KEY = 21;
// outbound packets
export const DROP_OUT_NOT_IP = 22;
export const DROP_OUT_NO_ROUTE = 23; // no peer's allowed IPs hold the destination
export const DROP_OUT_NO_ENDPOINT = 24; // peer's address is not known
export const DROP_OUT_TOO_LONG = 25;
export const DROP_OUT_STAGED_OVERFLOW = 26; // the oldest of the peer's staged packets
export const DROP_OUT_POOL_FULL = 27; // the pool of staged packets is exhausted
export const DROP_OUT_DEVICE_DOWN = 28;
export const DROP_OUT_STAGED_PURGED = 29; // handshake given up, or peer removed, with packets waiting
export const DROP_OUT_BAD_OFFLOAD = 30; // a virtio header that cannot be true, or more segments than there is room for
export const DROP_COUNT = 31;

// --- endpoint record: an UDP address and the sticky source that answers to it -----------------------------------
export const ENDPOINT_FAMILY = 0; // u16: 0 none, 4, 6
export const ENDPOINT_PORT = 2; // u16, network byte order
export const ENDPOINT_SCOPE = 4; // u32, IPv6 zone
export const ENDPOINT_ADDR = 8; // 16 bytes; IPv4 in the first 4, rest zero
export const ENDPOINT_SRC_IFINDEX = 24; // u32, 0 = none
export const ENDPOINT_SRC_FAMILY = 28; // u32: 0 no sticky source, else equal to the family
export const ENDPOINT_SRC_ADDR = 32; // 16 bytes
export const ENDPOINT_LEN = 48;

// --- thread block: one a thread, THREADS_BASE + thread * THREAD_SIZE -----------------------------------------------
export const PAGE_SIZE = 65536;
export const DEVICE_BASE = PAGE_SIZE; // below it: the compiler's constants
export const DEVICE_SIZE = PAGE_SIZE;
export const THREADS_BASE = DEVICE_BASE + DEVICE_SIZE;
export const THREAD_SIZE = PAGE_SIZE;
export const THREAD_MAX = 16;
export const THREADS_END = THREADS_BASE + THREAD_SIZE * THREAD_MAX;

// Written by the host before a call:
export const THREAD_MONO = 0x000; // timespec {i64 s, i64 ns}: a clock that counts sleep (CLOCK_BOOTTIME)
export const THREAD_WALL = 0x010; // timespec: CLOCK_REALTIME, for TAI64N and last_handshake_time
export const THREAD_RANDOM_LEFT = 0x020; // u32: unused random bytes at the end of THREAD_RANDOM; the core counts down
// Written by the core during a call:
export const THREAD_OUT_COUNT = 0x024; // u32: datagrams to send, records at THREAD_OUT
export const THREAD_DELIVER_COUNT = 0x028; // u32: packets for the TUN, records at THREAD_DELIVER
export const THREAD_KICK = 0x02c; // u32: 1 = the main thread has work: call deviceService there
export const THREAD_MORE = 0x030; // u32: 1 = deviceService has more to do: send what is there and call again
export const THREAD_DEADLINE = 0x038; // f64: ms on the monotonic clock, Infinity = nothing armed (deviceNextDeadline)
// Written by this thread around each run, read by the main thread (threads/lock.ts):
export const THREAD_BUSY = 0x040; // u32: 1 = inside a run; alone on its cache line
export const THREAD_FLOW = 0x80; // offload/coalesce.ts
export const THREAD_FLOW_SIZE = 0x40;
export const THREAD_RUN = 0xc0; // tunnel/run.ts
export const THREAD_RUN_SIZE = 0x40;
export const THREAD_ARGUMENT = 0x100; // 256 bytes: keys, prefixes and endpoints handed to exports; host writes
export const THREAD_PEER_INFO = 0x200; // PEER_INFO record (peerInfo)
export const THREAD_ALLOWED_IP = 0x300; // ALLOWED_IP record (allowedIpNext)
export const THREAD_SEGMENT = 0x340; // offload/segment.ts
export const THREAD_SEGMENT_SIZE = 0xc0;
export const THREAD_RANDOM = 0x400;
export const THREAD_RANDOM_SIZE = 0xc00;
export const THREAD_CRYPTO = 0x1000; // scratch of crypto/
export const THREAD_CRYPTO_SIZE = 0x3000;
export const THREAD_NOISE = 0x4000; // scratch of noise/ and tunnel/
export const THREAD_NOISE_SIZE = 0x1000;
export const THREAD_IN = 0x5000; // IN records, IN_MAX of them; host writes
export const THREAD_OUT = 0x8000; // OUT records
export const THREAD_DELIVER = 0xd000; // DELIVER records

// --- packet slots: every thread has SLOT_COUNT of them; a packet begins at SLOT_HEADROOM --------------------------
// A slot holds one 64 KiB run and the AEAD's slack before and after it. The odd stride keeps slots apart in the caches.
export const SLOT_HEADROOM = 128; // a TUN packet starts here; its message header is written 16 bytes before
export const SLOT_DATA_SIZE = 65536;
export const SLOT_SIZE = SLOT_DATA_SIZE + 2048;
export const SLOT_COUNT = 64;
export const SLOTS_SIZE = SLOT_SIZE * SLOT_COUNT; // of one thread

// --- IN record: a packet or a run of packets that the host put into a slot --------------------------------------------
export const IN_OFFSET = 0; // u32: address of the first byte
export const IN_LENGTH = 4; // u32: bytes in all
export const IN_SEGMENT = 8; // u32: bytes of each datagram but the last (UDP_GRO); 0 = one packet
export const IN_FLAGS = 12; // u32: IN_TRUNCATED; low byte of the second half: ECN and DSCP of the outer header
export const IN_ENDPOINT = 16; // ENDPOINT record: where a datagram came from and which address of ours it reached
export const IN_SIZE = IN_ENDPOINT + ENDPOINT_LEN; // 64
export const IN_MAX = SLOT_COUNT;
export const IN_TRUNCATED = 1;
export const IN_VNET = 2; // a virtio_net_hdr of 10 bytes lies before the packet (TUN with IFF_VNET_HDR)

// --- OUT record: a datagram or a run of equal ones to one endpoint -------------------------------------------------------
export const OUT_OFFSET = 0; // u32
export const OUT_LENGTH = 4; // u32: bytes in all
export const OUT_SEGMENT = 8; // u32: bytes of each datagram but the last; 0 = one datagram
export const OUT_PEER = 12; // u32 peer number (for peerClearSource after a failed send), 0xffffffff = none
export const OUT_TOS = 16; // u32: DSCP and ECN for the outer header
export const OUT_ENDPOINT = 20; // ENDPOINT record
export const OUT_SIZE = 80;
export const OUT_MAX = 256;
export const OUT_RUN_LEN_MAX = 65507; // bytes of a run: one UDP datagram's worth, as UDP_SEGMENT wants it
export const OUT_RUN_COUNT_MAX = 64; // datagrams of a run
export const OUT_SLOT = 32; // packets with a virtio header are sealed into the slots from here on; IN uses those below

// --- offloads of the TUN (deviceSetOffload) ------------------------------------------------------------------------------
export const OFFLOAD_VNET = 1; // each packet delivered begins with a virtio_net_hdr, and TCP runs are joined
export const OFFLOAD_UDP = 2; // UDP runs are joined too (the TUN takes GSO_UDP_L4, Linux >= 6.2)

// --- DELIVER record: bytes for the TUN; records with DELIVER_CONTINUES join the next into one packet (gather) -------------
export const DELIVER_OFFSET = 0; // u32
export const DELIVER_LENGTH = 4; // u32
export const DELIVER_PEER = 8; // u32
export const DELIVER_FLAGS = 12; // u32
export const DELIVER_SIZE = 16;
export const DELIVER_MAX = 512;
export const DELIVER_CONTINUES = 1;

// --- PEER_INFO record (peerInfo) ------------------------------------------------------------------------------------------
export const PEER_INFO_PUBLIC_KEY = 0;
export const PEER_INFO_PRESHARED_KEY = 32;
export const PEER_INFO_ENDPOINT = 64;
export const PEER_INFO_LAST_HANDSHAKE_SEC = PEER_INFO_ENDPOINT + ENDPOINT_LEN; // i64
export const PEER_INFO_LAST_HANDSHAKE_NSEC = PEER_INFO_LAST_HANDSHAKE_SEC + 8; // u32
export const PEER_INFO_PERSISTENT_KEEPALIVE = PEER_INFO_LAST_HANDSHAKE_NSEC + 4; // u32 seconds
export const PEER_INFO_RX_BYTES = PEER_INFO_PERSISTENT_KEEPALIVE + 4; // u64
export const PEER_INFO_TX_BYTES = PEER_INFO_RX_BYTES + 8; // u64
export const PEER_INFO_RX_PACKETS = PEER_INFO_TX_BYTES + 8; // u64
export const PEER_INFO_TX_PACKETS = PEER_INFO_RX_PACKETS + 8; // u64
export const PEER_INFO_DROPS = PEER_INFO_TX_PACKETS + 8; // u64: packets refused after the peer was known
export const PEER_INFO_STAGED = PEER_INFO_DROPS + 8; // u32
export const PEER_INFO_SESSIONS = PEER_INFO_STAGED + 4; // u32: bit 0 previous, 1 current, 2 next
export const PEER_INFO_HANDSHAKE_ATTEMPTS = PEER_INFO_SESSIONS + 4; // u32
export const PEER_INFO_SIZE = 224;

// --- ALLOWED_IP record ---------------------------------------------------------------------------------------------------
export const ALLOWED_IP_FAMILY = 0; // u32: 4 or 6
export const ALLOWED_IP_CIDR = 4; // u32
export const ALLOWED_IP_ADDR = 8; // 16 bytes, network order, IPv4 in the first 4
export const ALLOWED_IP_SIZE = 24;

// --- device block: counters that the host reads ---------------------------------------------------------------------------
export const DEVICE_WRITER = DEVICE_BASE + 0x80; // u32: 1 = the main thread writes, no run may begin (threads/lock.ts)
export const DEVICE_DROPS = DEVICE_BASE + 0x100; // u64 x DROP_COUNT, atomic
export const DEVICE_PUBLIC_KEY = DEVICE_BASE + 0x300; // 32 bytes, zero without a private key
export const DEVICE_PEER_COUNT = DEVICE_BASE + 0x320; // u32
export const DEVICE_PEER_LIMIT = DEVICE_BASE + 0x324; // u32
export const DEVICE_NODE_COUNT = DEVICE_BASE + 0x328; // u32: allowed-IP nodes in use
export const DEVICE_NODE_LIMIT = DEVICE_BASE + 0x32c; // u32
export const DEVICE_EVENT_HEAD = DEVICE_BASE + 0x330; // u32: events written so far
export const DEVICE_RX_DATAGRAMS = DEVICE_BASE + 0x338; // u64: datagrams handed to deviceReceive
export const DEVICE_RX_DELIVERED = DEVICE_BASE + 0x340; // u64: of these, consumed without a drop

// --- events: a ring that the main thread writes; the host reads from its own tail ---------------------------------------------
export const EVENTS = DEVICE_BASE + 0x400;
export const EVENT_MAX = 256;
export const EVENT_TYPE = 0; // u32
export const EVENT_PEER = 4; // u32
export const EVENT_ARGUMENT = 8; // u32
export const EVENT_SERIAL = 12; // u32: number of the event, to notice one that was overwritten
export const EVENT_SIZE = 16;
export const EVENT_INITIATION_SENT = 1; // argument: attempt
export const EVENT_INITIATION_RECEIVED = 2;
export const EVENT_RESPONSE_SENT = 3;
export const EVENT_HANDSHAKE_COMPLETE = 4; // argument: 1 as initiator, 2 as responder; a session is derived
export const EVENT_SESSION_CONFIRMED = 5; // responder: first packet under the new key
export const EVENT_HANDSHAKE_GIVEN_UP = 6; // no answer for REKEY_ATTEMPT_TIME
export const EVENT_KEEPALIVE_SENT = 7;
export const EVENT_KEYS_ZEROED = 8; // 3 x REJECT_AFTER_TIME without a new session
export const EVENT_ROAMED = 9;
export const EVENT_COOKIE_RECEIVED = 10;
export const EVENT_COOKIE_SENT = 11;
export const EVENT_UNDER_LOAD = 12; // argument: 1 entered, 0 left
export const EVENT_PEER_SILENT = 13; // no answer for KEEPALIVE + REKEY_TIMEOUT: a new handshake begins
export const EVENT_EPHEMERAL = 14; // with deviceSetKeyLog alone; argument: our index. The key lies in KEY_LOG
// Only while the user asked for a key log: our private ephemeral keys, each at the place of its EVENT_EPHEMERAL
// (KEY_LOG + serial % EVENT_MAX * 32). Whoever reads one wipes it; deviceSetKeyLog(0) and deviceWipe wipe all.
export const KEY_LOG = DEVICE_BASE + 0x2400;
export const KEY_LOG_END = KEY_LOG + EVENT_MAX * 32;

// --- pools above the thread blocks; the host sizes the memory with the same sums (memory.ts, host/core.ts) -------------------------
export const PEER_SIZE = 4096; // a peer with its handshake, cookie, timers and three sessions
export const NODE_SIZE = 48; // a node of the allowed-IP tries
export const STAGED_BLOCK_SIZE = 2048; // packets staged for a handshake lie in chains of these
export const STAGED_BLOCK_COUNT = 4096;
export const HANDSHAKE_SLOT_SIZE = 224; // a queued handshake message and its IN record's endpoint
export const LIMITER_ENTRY_SIZE = 32;
export const LIMITER_ENTRY_COUNT = 8192;
export const DEFAULT_MAX_PEERS = 4096;
export const DEFAULT_MAX_NODES = 1 << 19;
