// The daemon's UDP port through its changes. The descriptor's number never changes once lanes use it: another port is a
// new socket put in its place by dup2, so that lanes blocked or busy on it need not be asked.

import type { Network } from "../../device.ts";
import type { Libc } from "./libc.ts";
import { LinuxUdp, type UdpHandle } from "./udp.ts";

export interface LinuxNetworkOptions {
  libc: Libc;
  /** UDP_SEGMENT and UDP_GRO, where the kernel has them */
  offload: boolean;
  /** the first socket was bound: time to start the lanes */
  onBound: (handle: UdpHandle) => void;
}

export class LinuxNetwork implements Network {
  readonly #options: LinuxNetworkOptions;
  #udp: LinuxUdp | null = null;
  #mark = 0;

  constructor(options: LinuxNetworkOptions) {
    this.#options = options;
  }

  get listenPort(): number {
    return this.#udp?.port ?? 0;
  }

  get fwmark(): number {
    return this.#mark;
  }

  async prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }> {
    const { libc, offload } = this.#options;
    const mark = change.fwmark ?? this.#mark;
    const before = this.#mark;
    const port = change.listenPort;
    const bound = port === undefined || (port !== 0 && port === this.listenPort) ? null : new LinuxUdp(libc, { port, mark, offload });
    if (mark !== before && !bound) this.#udp?.setMark(mark);
    return {
      commit: () => {
        this.#mark = mark;
        if (bound) this.#adopt(bound);
      },
      rollback: () => {
        bound?.close();
        if (mark !== before && !bound) this.#udp?.setMark(before);
      },
    };
  }

  /** Binds a port, if none is bound yet. */
  open(): void {
    const { libc, offload } = this.#options;
    if (!this.#udp) this.#adopt(new LinuxUdp(libc, { port: 0, mark: this.#mark, offload }));
  }

  /** Makes a blocked receiver return. */
  wake(): void {
    this.#udp?.wake();
  }

  close(): void {
    this.#udp?.close();
    this.#udp = null;
  }

  #adopt(udp: LinuxUdp): void {
    if (this.#udp) {
      this.#udp.replace(udp);
      return;
    }
    this.#udp = udp;
    this.#options.onBound(udp.handle);
  }
}
