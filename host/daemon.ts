// The daemon on Linux: a TUN, a UDP port, two lanes, the UAPI socket, and the main thread between them. It follows the
// interface: up and down, MTU, renamed, gone.

import { OUT_RUN_COUNT_MAX, OUT_RUN_LEN_MAX } from "../assembly/abi.ts";
import { AUTHTAG_LEN, DATA_HEADER_LEN } from "../assembly/protocol.ts";
import { Recorder } from "./capture/recorder.ts";
import { Tap, TappedSink } from "./capture/tap.ts";
import { type CoreBuild, compileCore, createCore, fastestBuild } from "./core.ts";
import { Device } from "./device.ts";
import { type CoreEvent, Driver } from "./driver.ts";
import type { WasmguardError } from "./errors.ts";
import { type DeviceEvent, eventName, eventText, NO_PEER } from "./events.ts";
import { encodeBase64Key } from "./keys.ts";
import { daemonThreads, Lanes } from "./lanes.ts";
import type { Logger } from "./log.ts";
import type { Observable } from "./model.ts";
import { LinuxClock } from "./platform/linux/clock.ts";
import { openLibc } from "./platform/linux/libc.ts";
import { deleteLink, setGsoMaxSegments, watchNetwork } from "./platform/linux/netlink.ts";
import { LinuxNetwork } from "./platform/linux/network.ts";
import { Sender } from "./platform/linux/sender.ts";
import { adoptTun, type LinuxTun, openTun } from "./platform/linux/tun.ts";
import { localAddressTo } from "./platform/linux/udp.ts";
import { CoreRandom, fillRandom } from "./platform/random.ts";
import type { NetworkEvent } from "./platform/types.ts";
import { startUapiServer, type UapiServer } from "./uapi-server.ts";

export interface DaemonOptions {
  /** of the interface; with tunFd it names the UAPI socket alone */
  name: string;
  log: Logger;
  /** an open TUN from another program (WG_TUN_FD) */
  tunFd?: number;
  /** a listening UAPI socket from another program (WG_UAPI_FD) */
  uapiFd?: number;
  maxPeers?: number;
  maxNodes?: number;
  /** default: the fastest here */
  build?: CoreBuild;
  /** pairs of worker threads, 1..LANES_MAX; default 1. An inherited TUN has one queue, and so one pair. */
  lanes?: number;
  /** super-packets through TUN and UDP (virtio header, UDP_SEGMENT, UDP_GRO); default true */
  offload?: boolean;
  /** path of a key log, and of a capture file: secret files, for debugging */
  keyLog?: string;
  pcap?: string;
  /** what the core reports of a peer: EVENT_* of abi.ts */
  onPeerEvent?: (publicKey: Uint8Array, type: number) => void;
  /** the interface or the socket was removed, or a lane failed: the daemon has stopped */
  onStopped: (reason: string, error: Error | null) => void;
}

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #libc = openLibc();
  readonly #tun: LinuxTun;
  readonly #network: LinuxNetwork;
  readonly #driver: Driver;
  readonly #device: Device;
  readonly #recorder: Recorder | null;
  readonly #eventCounts = new Map<string, number>();
  readonly #listeners = new Set<(event: DeviceEvent) => void>();
  #lanes: Lanes | null = null;
  #uapi: UapiServer | null = null;
  #watcher: { close(): void } | null = null;
  #up = false;
  #mtu = 0;
  #stopping: Promise<boolean> | null = null;

  private constructor(options: DaemonOptions, module: WebAssembly.Module) {
    const { name, tunFd, log, maxPeers, maxNodes, lanes = 1, offload = true } = options;
    const libc = this.#libc;
    this.#options = options;
    this.#recorder = this.#openRecorder();
    this.#tun = tunFd === undefined ? openTun(libc, { name, mtu: DAEMON_MTU, vnetHeader: offload, multiQueue: lanes > 1 }) : adoptTun(libc, tunFd);
    const pairs = tunFd === undefined ? lanes : 1;
    const core = createCore(module, fillRandom, { maxPeers, maxNodes, threads: daemonThreads(pairs) });
    core.exports.deviceSetOffload(this.#tun.offload);
    const recorder = this.#recorder?.capturesPackets ? this.#recorder : null;
    this.#driver = new Driver({
      core,
      clock: new LinuxClock(libc, core),
      random: new CoreRandom(core),
      onEvent: (event) => this.#tellEvent(event),
      onEphemeral: (peer, key) => this.#recordKeys(peer, key),
      onEventsLost: (count) => log.verbose(`${count} events came too fast to be told`),
    });
    this.#network = new LinuxNetwork({
      libc,
      offload,
      lanes: pairs,
      onBound: (udps) => {
        const onSourceGone = (peer: number): void => void core.exports.peerClearSource(peer);
        const sender = new Sender(libc, core, udps[0], { wait: false, onSourceGone });
        this.#driver.sink = recorder ? new TappedSink(sender, new Tap(core, (captured) => recorder.packets(captured))) : sender;
        this.#lanes = new Lanes({
          core,
          tuns: udps.map((_, i) => (i === 0 ? this.#tun.handle : this.#tun.openQueue())),
          udps,
          onKick: () => this.#driver.service(),
          onCaptured: recorder ? (captured) => recorder.packets(captured) : undefined,
          onCaptureLost: (count) => log.error(`${count} datagrams came too fast to be captured`),
          onErrors: (direction, errors) => log.verbose(`errors ${direction}: ${errors.map(([code, n]) => `${code} ${n}`).join(", ")}`),
          onEnd: (_, error) => this.#laneEnded(error),
        });
      },
    });
    this.#device = new Device({ core, driver: this.#driver, network: this.#network });
    if (this.#recorder) this.#driver.logKeys(true);
  }

  /**
   * Resolves when the UAPI socket answers.
   * @throws SystemError or WasmguardError with a message for the user; nothing is left behind then
   */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const build = options.build ?? (await fastestBuild());
    options.log.verbose(`Core "${build}"`);
    const daemon = new Daemon(options, await compileCore(build));
    try {
      await daemon.#start();
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    return daemon;
  }

  get device(): Device {
    return this.#device;
  }

  /** Ends it: sockets, lanes and interface are gone, keys are wiped. @returns false when a thread could not be ended */
  stop(): Promise<boolean> {
    return (this.#stopping ??= this.#stop());
  }

  async #start(): Promise<void> {
    const { name, uapiFd, log } = this.#options;
    this.#watcher = watchNetwork(this.#libc, (event) => this.#networkChanged(event));
    this.#setMtu(this.#tun.mtu());
    this.#uapi = await startUapiServer({
      name, device: this.#observable(), fd: uapiFd, log, onRemoved: () => this.#end("the UAPI socket was removed", null),
    });
    if (this.#tun.up()) this.#setUp(true);
  }

  async #stop(): Promise<boolean> {
    this.#watcher?.close();
    await this.#uapi?.close();
    const ended = (await this.#lanes?.stop(() => this.#wakeLanes())) ?? true;
    if (ended) {
      this.#network.close();
      this.#tun.close();
    }
    this.#device.close();
    this.#recorder?.close();
    return ended;
  }

  #openRecorder(): Recorder | null {
    const { keyLog, pcap, log } = this.#options;
    if (keyLog === undefined && pcap === undefined) return null;
    const identity = () => ({ privateKey: this.#device.privateKey(), listenPort: this.#network.listenPort });
    const recorder = new Recorder({
      keyLog, pcap, identity,
      localAddressTo: (remote) => localAddressTo(this.#libc, remote),
      onFailed: (error) => log.error(error.message),
    });
    for (const path of [keyLog, pcap]) {
      if (path !== undefined) log.error(`WARNING: writing secret keys to ${path}: who reads it reads this tunnel's traffic`);
    }
    return recorder;
  }

  #recordKeys(peer: number, ephemeral: Uint8Array): void {
    const keys = this.#device.handshakeKeys(peer, ephemeral);
    if (!keys) return;
    this.#recorder?.keys(keys);
    for (const key of Object.values(keys)) key.fill(0);
  }

  #wakeLanes(): void {
    this.#network.wake();
    try {
      // Ours goes with us, and its reader wakes; somebody else's stays, and gets a packet to wake up for.
      if (this.#options.tunFd === undefined) deleteLink(this.#libc, this.#tun.name());
      else this.#tun.wake();
    } catch {
      // It is gone already: so its reader is awake.
    }
  }

  #end(reason: string, error: Error | null): void {
    if (this.#stopping) return;
    void this.stop().then(() => this.#options.onStopped(reason, error));
  }

  #laneEnded(error: WasmguardError | null): void {
    this.#end(error ? error.message : "the interface was deleted", error);
  }

  #setMtu(mtu: number): void {
    this.#device.setMtu(mtu);
    if (mtu === this.#mtu) return;
    this.#mtu = mtu;
    if (!this.#tun.offload) return;
    const segments = Math.min(OUT_RUN_COUNT_MAX, Math.floor(OUT_RUN_LEN_MAX / (mtu + MESSAGE_OVERHEAD)));
    try {
      setGsoMaxSegments(this.#libc, this.#tun.ifindex, Math.max(1, segments));
    } catch (error) {
      // Only a second system call now and then is lost.
      this.#options.log.verbose((error as Error).message);
    }
  }

  #setUp(up: boolean): void {
    if (up === this.#up) return;
    this.#up = up;
    this.#options.log.verbose(`Interface is ${up ? "up" : "down"}`);
    if (up) {
      this.#network.open();
      this.#device.up();
    } else {
      this.#device.down();
    }
  }

  #networkChanged(event: NetworkEvent): void {
    if (this.#stopping) return;
    const { log } = this.#options;
    try {
      if (event.type === "network") {
        this.#device.clearSources();
      } else if (event.type === "lost") {
        this.#device.clearSources();
        this.#followLink();
      } else if (event.ifindex !== this.#tun.ifindex) {
        return;
      } else if (event.type === "link") {
        this.#setMtu(event.mtu);
        this.#setUp(event.up);
      } else if (this.#tun.exists()) {
        // Moved to another network namespace: from there we hear nothing of it, so let packets decide.
        this.#setUp(true);
      } else {
        this.#end("the interface was deleted", null);
      }
    } catch (error) {
      log.error(`Cannot follow the interface: ${(error as Error).message}`);
    }
  }

  #followLink(): void {
    if (!this.#tun.exists()) return this.#end("the interface was deleted", null);
    this.#setMtu(this.#tun.mtu());
    this.#setUp(this.#tun.up());
  }

  #passEvent({ type, peer }: CoreEvent): void {
    const { onPeerEvent } = this.#options;
    if (onPeerEvent === undefined || peer === NO_PEER) return;
    const identity = this.#device.peerIdentity(peer);
    if (identity !== null) onPeerEvent(identity.publicKey, type);
  }

  #tellEvent(event: CoreEvent): void {
    this.#passEvent(event);
    const { log } = this.#options;
    const text = eventText(event);
    log.verbose(event.peer === NO_PEER ? text : `${this.#device.peerName(event.peer)} - ${text}`);
    this.#eventCounts.set(eventName(event.type), (this.#eventCounts.get(eventName(event.type)) ?? 0) + 1);
    if (this.#listeners.size === 0) return;
    const publicKey = event.peer === NO_PEER ? undefined : this.#device.peerIdentity(event.peer)?.publicKey;
    const peer = publicKey ? encodeBase64Key(publicKey) : null;
    const told = { name: eventName(event.type), peer, argument: event.argument, time: Date.now() };
    for (const listener of this.#listeners) listener(told);
  }

  /** What the UAPI server asks. */
  #observable(): Observable {
    return {
      state: () => this.#device.state(),
      apply: (change) => this.#device.apply(change),
      statistics: () => ({ drops: this.#device.drops(), events: Object.fromEntries(this.#eventCounts) }),
      listen: (listener) => {
        this.#listeners.add(listener);
        return () => void this.#listeners.delete(listener);
      },
    };
  }
}

/** wireguard-go's default, and wg-quick's: what fits an IPv6 path of 1,500 bytes. */
const DAEMON_MTU = 1420;

const MESSAGE_OVERHEAD = DATA_HEADER_LEN + AUTHTAG_LEN;
