// What the core needs of the world, as interfaces. Two hosts stand behind them:
//   linux     a daemon: the main thread, and one worker thread a direction that sits blocked in a system call
//   portable  one thread and an event loop: node:dgram and a packet callback, no privileges, no FFI
// All data goes through the core's memory, never through arguments: a source puts packets into the slots of its thread
// and IN records beside them (THREAD_IN), a sink reads the OUT or DELIVER records that the core wrote (assembly/abi.ts).
// So the halves that send are the same for both hosts, and only the way packets come in differs: a blocked lane calls
// `receive()`, an event loop is called back. One interface with promises for both was rejected: a promise a batch costs
// the blocked lanes more than the system call it waits for.

/** A thread of the core: its number says where its block and its slots are (assembly/memory.ts). */
export interface CoreThread {
  memory: WebAssembly.Memory;
  /** 0 = the main thread, below THREAD_MAX */
  thread: number;
}

/** Time, written where the core reads it. */
export interface Clock {
  /** Writes the present into THREAD_MONO (a clock that counts sleep, where the system has one) and THREAD_WALL. */
  stamp(): void;
  /** The monotonic clock that stamp() writes, in ms: what THREAD_DEADLINE is compared with. */
  now(): number;
}

/** Random bytes, written where the core takes them from. */
export interface Random {
  /** Fills what the core has used of THREAD_RANDOM and sets THREAD_RANDOM_LEFT. Cheap when nothing was used. */
  refill(): void;
  /** Fills `bytes`; for what the host itself needs. */
  fill(bytes: Uint8Array): void;
}

/** What went wrong with single packets: how often, by error code ("EMSGSIZE", "ENETUNREACH"). Nothing here is fatal. */
export type ErrorCounts = Map<string, number>;

/** Sends the datagrams of a thread's OUT records. */
export interface DatagramSink {
  /**
   * Sends the first `count` OUT records (THREAD_OUT_COUNT after a call of the core). The records and their bytes are
   * free again when it returns. A datagram that cannot be sent is counted in `errors` and skipped.
   * @returns datagrams handed to the system
   * @throws CoreAddressError when a record does not lie in the thread's slots: the lane must stop
   */
  send(count: number): number;
  readonly errors: ErrorCounts;
}

/** Writes the packets of a thread's DELIVER records to the TUN, or to whoever stands for it. */
export interface PacketSink {
  /**
   * Delivers the first `count` DELIVER records; records joined by DELIVER_CONTINUES make one packet.
   * @returns packets written, or CLOSED when the interface is gone
   * @throws CoreAddressError
   */
  deliver(count: number): number;
  readonly errors: ErrorCounts;
}

/** What receive() and deliver() return when the interface or socket is gone for good. */
export const CLOSED = -1;

/** A blocked lane's way in: datagrams from UDP or packets from the TUN. */
export interface BlockingSource {
  /**
   * Waits for packets, takes those that are there already without waiting for more, and writes an IN record for each.
   * @returns IN records written; 0 when it was woken without a packet (the caller looks why); CLOSED
   * @throws SystemError when the descriptor is unusable
   */
  receive(): number;
  readonly errors: ErrorCounts;
}

/** An event loop's way in. `onBatch` finds `count` IN records in the thread block and must be done when it returns. */
export interface EventedSource {
  start(onBatch: (count: number) => void): void;
}

/** A bound UDP port. Lanes build their own sinks and sources over `handle`; the evented host over the object. */
export interface Udp {
  /** host byte order, 1..65535: the one asked for, or the one that the system chose for 0 */
  readonly port: number;
  /** Firewall mark of everything sent from here, 0 = none. @throws SystemError (EPERM without CAP_NET_ADMIN) */
  setMark(mark: number): void;
  /** Makes a blocked receive() return 0, now and ever after. The descriptor stays open. */
  wake(): void;
  /** Closes the socket. No lane may still be using it. */
  close(): void;
}

/** A layer-3 network interface. */
export interface Tun {
  /** the name as it is now: interfaces can be renamed */
  name(): string;
  mtu(): number;
  setMtu(mtu: number): void;
  close(): void;
}

/** What a network watcher reports. */
export type NetworkEvent =
  /** An interface came, changed or was renamed. `up` is IFF_UP: what the administrator wants, not the carrier. */
  | { type: "link"; ifindex: number; name: string; mtu: number; up: boolean; renamed: boolean }
  /** An interface left this network namespace. It may live on in another: the TUN's own read says whether it died. */
  | { type: "deleted"; ifindex: number }
  /** Addresses or routes changed: cached source addresses may be stale. Many changes at once make one event. */
  | { type: "network" }
  /** Some events were lost: ask for the present state. */
  | { type: "lost" };

export interface NetworkWatcher {
  /** Stops the reports. The watcher keeps the process alive until then. */
  close(): void;
}
