// The daemon's UDP port through its changes: one socket a lane. Their descriptors' numbers never change once lanes use
// them: another port is a new set of sockets put in the places of the old by dup2, so that lanes blocked or busy on them
// need not be asked.

import type { Network } from "../../device.ts";
import type { IpAddress } from "../../ip.ts";
import type { Libc } from "./libc.ts";
import { LinuxUdp, type UdpHandle } from "./udp.ts";

export interface LinuxNetworkOptions {
  libc: Libc;
  /** sockets that share the port (SO_REUSEPORT): one for each pair of lanes */
  lanes: number;
  /** address to bind; default: all */
  address?: IpAddress;
  /** UDP_SEGMENT and UDP_GRO, where the kernel has them */
  offload: boolean;
  /** the first sockets were bound: time to start the lanes */
  onBound: (handles: UdpHandle[]) => void;
}

export class LinuxNetwork implements Network {
  readonly #options: LinuxNetworkOptions;
  #sockets: LinuxUdp[] = [];
  #mark = 0;

  constructor(options: LinuxNetworkOptions) {
    this.#options = options;
  }

  get listenPort(): number {
    return this.#sockets[0]?.port ?? 0;
  }

  get fwmark(): number {
    return this.#mark;
  }

  async prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }> {
    const mark = change.fwmark ?? this.#mark;
    const before = this.#mark;
    const port = change.listenPort;
    const bound = port === undefined || (port !== 0 && port === this.listenPort) ? null : this.#bind(port, mark);
    if (mark !== before && !bound) this.#setMark(mark);
    return {
      commit: () => {
        this.#mark = mark;
        if (bound) this.#adopt(bound);
      },
      rollback: () => {
        if (bound) closeAll(bound);
        else if (mark !== before) this.#setMark(before);
      },
    };
  }

  /** Binds a port, if none is bound yet. */
  open(): void {
    if (this.#sockets.length === 0) this.#adopt(this.#bind(0, this.#mark));
  }

  /** Makes blocked receivers return. */
  wake(): void {
    for (const socket of this.#sockets) socket.wake();
  }

  close(): void {
    closeAll(this.#sockets);
    this.#sockets = [];
  }

  #setMark(mark: number): void {
    for (const socket of this.#sockets) socket.setMark(mark);
  }

  /** All sockets of a port, or none. */
  #bind(port: number, mark: number): LinuxUdp[] {
    const { libc, lanes, offload, address } = this.#options;
    if (lanes === 1) return [new LinuxUdp(libc, { port, address, mark, offload })];
    // SO_REUSEPORT would let us in beside another program of ours; a socket without it tells whether the port is free.
    const probe = new LinuxUdp(libc, { port, address });
    const free = probe.port;
    probe.close();
    const sockets: LinuxUdp[] = [];
    try {
      for (let i = 0; i < lanes; i++) sockets.push(new LinuxUdp(libc, { port: free, address, mark, shared: true, offload }));
    } catch (error) {
      closeAll(sockets);
      throw error;
    }
    return sockets;
  }

  #adopt(bound: LinuxUdp[]): void {
    if (this.#sockets.length > 0) {
      this.#sockets.forEach((socket, i) => socket.replace(bound[i]));
      return;
    }
    this.#sockets = bound;
    this.#options.onBound(bound.map(({ handle }) => handle));
  }
}

function closeAll(sockets: LinuxUdp[]): void {
  for (const socket of sockets) socket.close();
}
