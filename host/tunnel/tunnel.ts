// A tunnel inside a program: the device, the stack above it, and sockets as Node's own. What `import "wasmguard"` is for.
//
//   sockets, servers, datagrams (this folder) <-> Stack (netstack/) <-> PortableDevice.link (the core) <-> Transport
//
// All on the caller's thread and event loop, with no privilege and no native code. The tunnel keeps the process alive
// until it is closed; then nothing of it is left: no socket, no timer, no key.

import { EventEmitter } from "node:events";
import type { AgentOptions } from "node:http";
import type { AgentOptions as HttpsAgentOptions } from "node:https";
import type { Server as NetServer } from "node:net";
import type { ConnectionOptions } from "node:tls";
import { type Config, type PeerConfig, toDeviceChange } from "../config.ts";
import { compileCore, type CoreBuild, pickBuild } from "../core.ts";
import type { DropName } from "../device.ts";
import type { CoreEvent } from "../driver.ts";
import { type Endpoint, formatEndpoint } from "../endpoint.ts";
import { EndpointKeeper, type NamedPeer, namedPeers, type Resolution, resolveNames } from "../endpoints.ts";
import { quote, WasmguardError } from "../errors.ts";
import { formatIp, formatPrefix, type IpAddress, tryParseIp } from "../ip.ts";
import { decodeBase64Key, encodeBase64Key, equalKeys, KEY_LEN } from "../keys.ts";
import { createPeerChange, type DeviceChange, type DeviceState, type PeerChange } from "../model.ts";
import { Resolver } from "../netstack/resolver.ts";
import { Stack } from "../netstack/stack.ts";
import type { InPacket, StackClock, TcpConnection } from "../netstack/types.ts";
import { fillRandom } from "../platform/random.ts";
import { openPortable, type PortableDevice } from "../portable.ts";
import type { Transport } from "../transport/types.ts";
import { abortable, onAbort, throwIfAborted } from "./abort.ts";
import { createConnector, TunnelHttpAgent, TunnelHttpsAgent, type UndiciConnector } from "./agent.ts";
import { DatagramSocket } from "./datagram.ts";
import { dial, formatTarget } from "./dial.ts";
import { EventReader, type TunnelEvents } from "./events.ts";
import { type FetchAgents, tunnelFetch } from "./fetch.ts";
import { Routes } from "./routes.ts";
import { Server, serveWhile } from "./server.ts";
import { type PeerSettings, readConfig, readPeer, type TunnelConfig } from "./settings.ts";
import { StreamSocket } from "./socket.ts";
import type {
  ConnectOptions,
  DatagramOptions,
  Dialer,
  ListenOptions,
  TunnelDatagram,
  TunnelServer,
  TunnelSocket,
} from "./types.ts";

export interface TunnelOptions {
  /**
   * What carries the datagrams. "udp" is node:dgram; "native" is the kernel's UDP by FFI, on Linux, several times as fast;
   * "auto", the default, is the faster one that works here.
   */
  transport?: Transport | "auto" | "native" | "udp";
  /** UDP port in place of the configuration's; 0 = any */
  listenPort?: number;
  /** address to bind the UDP port to; default: all */
  bindAddress?: string;
  /** bytes of the longest packet in the tunnel, in place of the configuration's */
  mtu?: number;
  maxPeers?: number;
  /** default: the fastest that the engine runs */
  build?: CoreBuild;
  /** time of the stack; the device keeps its own */
  clock?: StackClock;
  /** While it opens: gives up with AbortError. Afterwards: closes the tunnel. */
  signal?: AbortSignal;
}

export interface PingOptions {
  family?: 4 | 6;
  /** payload bytes, default 56 */
  size?: number;
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface PingReply {
  ms: number;
  /** who answered */
  from: string;
  /** payload bytes of the answer */
  bytes: number;
  hopLimit: number;
}

export interface PeerStats {
  /** base64 */
  publicKey: string;
  /** "IP:port", null = not known yet */
  endpoint: string | null;
  /** null = never */
  lastHandshake: Date | null;
  rxBytes: number;
  txBytes: number;
  allowedIps: string[];
  /** seconds, 0 = off */
  persistentKeepalive: number;
}

export interface TunnelStats {
  /** of the UDP port */
  listenPort: number;
  /** base64 */
  publicKey: string;
  peers: PeerStats[];
  /** what the core refused, by reason: only reasons that occurred */
  drops: Partial<Record<DropName, number>>;
  /** what the stack refused, by reason: only reasons that occurred */
  stackDrops: Record<string, number>;
  /** datagrams that could not be sent, by error code */
  sendErrors: Record<string, number>;
  tcp: { connections: number; timeWait: number; listeners: number };
  /** open sockets and datagram sockets of this API, servers */
  sockets: number;
  datagrams: number;
  servers: number;
}

/** How often a name server is asked again that does not answer while the tunnel opens: some 4 seconds. */
const RESOLVE_RETRIES = 3;

export class Tunnel extends EventEmitter<TunnelEvents> implements Dialer, AsyncDisposable {
  readonly #device: PortableDevice;
  readonly #stack: Stack;
  readonly #clock: StackClock;
  #config: Config;
  #resolver: Resolver | null;
  /** null = to be asked of the device */
  #routes: Routes | null = null;
  readonly #events: EventReader;
  /** of the peers whose endpoints have names, by public key */
  readonly #keepers = new Map<string, EndpointKeeper>();
  readonly #sockets = new Set<StreamSocket>();
  readonly #servers = new Set<TunnelServer>();
  readonly #datagrams = new Set<DatagramSocket>();
  readonly #agents = new Set<TunnelHttpAgent | TunnelHttpsAgent>();
  #fetchAgents: FetchAgents | null = null;
  #closing: Promise<void> | null = null;
  /** the device is gone, and its memory wiped */
  #ended = false;
  #changes: Promise<void> = Promise.resolve();
  #stopListening = (): void => {};

  private constructor(
    parts: { device: PortableDevice; stack: Stack; clock: StackClock; config: Config; events: EventReader },
  ) {
    super();
    this.#device = parts.device;
    this.#stack = parts.stack;
    this.#clock = parts.clock;
    this.#config = parts.config;
    this.#events = parts.events;
    this.#resolver = this.#newResolver(parts.config);
  }

  /**
   * Opens a tunnel: resolves the names of its endpoints, binds its UDP port. It says nothing to a peer before there is a
   * packet for it (or PersistentKeepalive asks), so that it opens whether a peer answers or not.
   * @param conf  text of a wg-quick file, what parseConfig made of one, or a plain object
   * @throws ConfigError or WasmguardError ERR_CONFIG naming line or path; ENOTFOUND, EADDRINUSE ...; AbortError
   */
  static async open(conf: TunnelConfig, options: TunnelOptions = {}): Promise<Tunnel> {
    const { signal, transport, bindAddress, maxPeers, clock = systemClock } = options;
    const config = readConfig(conf);
    throwIfAborted(signal, "open the tunnel");
    const resolving = resolveNames(config, { retries: RESOLVE_RETRIES, signal });
    const resolved = await abortable(resolving, signal, "open the tunnel");
    let onEvent = (_: CoreEvent): void => {};
    let input = (_: InPacket): void => {};
    let onFailed = (error: WasmguardError): void => {
      throw error;
    };
    const device = await openPortable({
      module: await sharedCore(options.build ?? pickBuild()),
      transport,
      address: bindAddress,
      mtu: options.mtu ?? config.interface.mtu,
      maxPeers,
      onInput: (packet) => input(packet),
      onEvent: (event) => onEvent(event),
      onFailed: (error) => onFailed(error),
    });
    let tunnel: Tunnel;
    try {
      const stack = new Stack({ link: device.link, addresses: config.interface.addresses, clock, random: fillRandom });
      input = (packet) => stack.input(packet);
      const reader = new EventReader({
        publicKey: (peer) => keyText(device.device.peerIdentity(peer)?.publicKey),
        endpoint: (peer) => endpointText(device.device.peerIdentity(peer)?.endpoint),
      });
      tunnel = new Tunnel({ device, stack, clock, config, events: reader });
      onEvent = (event) => tunnel.#coreEvent(event);
      onFailed = (error) => void (tunnel.#closing ??= tunnel.#close(error));
      await device.configure({
        ...toDeviceChange(config, firstAddresses(resolved)),
        listenPort: options.listenPort ?? config.interface.listenPort ?? 0,
        fwmark: 0,
      });
      await device.up();
      throwIfAborted(signal, "open the tunnel");
      // The last step: a keeper has a timer, and what fails below it would leave it behind.
      for (const peer of namedPeers(config)) tunnel.#keep(peer, resolved);
    } catch (error) {
      await device.close();
      throw error;
    }
    tunnel.#stopListening = onAbort(signal, () => void tunnel.close());
    return tunnel;
  }

  /** Our UDP port. */
  get listenPort(): number {
    return this.#device.listenPort;
  }

  /** base64; "" when it is closed */
  get publicKey(): string {
    return keyText(this.#device.device.publicKey) ?? "";
  }

  /** Ours inside the tunnel. */
  get addresses(): string[] {
    return this.#config.interface.addresses.map(({ address }) => formatIp(address));
  }

  get closed(): boolean {
    return this.#closing !== null;
  }

  /** @throws RangeError, TypeError for options that cannot be; all else comes to the socket as an error with a code */
  connect(options: ConnectOptions): TunnelSocket {
    const { host, port, localPort, localAddress, signal, allowHalfOpen } = options;
    if (typeof host !== "string" || host === "") {
      throw new TypeError("Cannot connect: host must be a name or an address");
    }
    checkPort("connect", port, 1);
    if (localPort !== undefined) checkPort("connect from", localPort, 0);
    if (localAddress !== undefined) this.#ownAddress(localAddress);
    const socket = new StreamSocket({ allowHalfOpen, signal });
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    return socket.dial((given) => this.#dial(options, given));
  }

  /** @throws WasmguardError EADDRINUSE, EADDRNOTAVAIL */
  listen(options: ListenOptions, onSocket: (socket: TunnelSocket) => void): Server {
    this.#checkOpen("listen");
    const { port, host, backlog, allowHalfOpen, signal } = options;
    checkPort("listen on", port, 0);
    throwIfAborted(signal, "listen");
    const address = host === undefined ? undefined : this.#ownAddress(host);
    const listener = this.#stack.tcp.listen(port, { address, backlog });
    listener.onConnection = (connection) => {
      const socket = new StreamSocket({ connection, allowHalfOpen });
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
      onSocket(socket);
    };
    const server = new Server(listener);
    this.#servers.add(server);
    const stop = onAbort(signal, () => void server.close());
    server.onClosed(() => {
      stop();
      this.#servers.delete(server);
    });
    return server;
  }

  /**
   * Lets a server of Node's (http, https, tls, net) serve a port of the tunnel, as in
   * `tunnel.serve(createServer(handler), { port })`. It does not listen on this machine.
   * @throws WasmguardError EADDRINUSE, EADDRNOTAVAIL
   */
  serve(server: NetServer, options: ListenOptions): TunnelServer {
    const listening = this.listen(options, (socket) => {
      // As with a port of the machine, a client that resets its connection is nobody's error.
      socket.on("error", () => {});
      server.emit("connection", socket);
    });
    return serveWhile(server, listening);
  }

  /** @throws WasmguardError EADDRINUSE, EADDRNOTAVAIL */
  datagram(options: DatagramOptions = {}): TunnelDatagram {
    this.#checkOpen("open a datagram socket");
    const { port, host, signal } = options;
    if (port !== undefined) checkPort("bind", port, 0);
    throwIfAborted(signal, "open a datagram socket");
    const address = host === undefined ? undefined : this.#ownAddress(host);
    const udp = this.#stack.udp.open({ port: port || undefined, address });
    const socket = new DatagramSocket(udp, async (name) => (await this.#addressesOf(name))[0]);
    this.#datagrams.add(socket);
    const stop = onAbort(signal, () => socket.close());
    socket.once("close", () => {
      stop();
      this.#datagrams.delete(socket);
    });
    return socket;
  }

  /** One ICMP echo. Rejects with ETIMEDOUT, EHOSTUNREACH, ENOTFOUND, ABORT_ERR. */
  async ping(host: string, options: PingOptions = {}): Promise<PingReply> {
    this.#checkOpen("ping");
    const { family, signal, size, timeoutMs } = options;
    throwIfAborted(signal, `ping ${host}`);
    const [to] = await this.#addressesOf(host, family, signal);
    this.#checkOpen("ping");
    const reply = await abortable(this.#stack.icmp.ping(to, { size, timeoutMs, signal }), signal, `ping ${host}`);
    return { ms: reply.ms, from: formatIp(reply.from.address), bytes: reply.bytes, hopLimit: reply.hopLimit };
  }

  async resolve(name: string, options: { family?: 4 | 6; signal?: AbortSignal } = {}): Promise<string[]> {
    this.#checkOpen("resolve a name");
    throwIfAborted(options.signal, `resolve ${name}`);
    return (await this.#lookup(name, options.family, options.signal)).map(({ address }) => formatIp(address));
  }

  /** For node:http: `http.get(url, { agent })`. Keeps connections for the next request; destroyed with the tunnel. */
  agent(options?: AgentOptions): TunnelHttpAgent {
    return this.#ownAgent(new TunnelHttpAgent((to) => this.connect(to), options));
  }

  /** For node:https, with its TLS options. */
  httpsAgent(options?: HttpsAgentOptions): TunnelHttpsAgent {
    return this.#ownAgent(new TunnelHttpsAgent((to) => this.connect(to), options));
  }

  /** For undici: `new Agent({ connect: tunnel.connector() })`, and that as the dispatcher of its fetch. */
  connector(tls?: ConnectionOptions): UndiciConnector {
    return createConnector((to) => this.connect(to), tls);
  }

  /** fetch() through the tunnel; no dependency needed. See fetch.ts for what it rejects with. */
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response> {
    this.#fetchAgents ??= { http: this.agent(), https: this.httpsAgent() };
    return tunnelFetch(this.#fetchAgents, input, init);
  }

  /**
   * Adds a peer, or makes it exactly this; an endpoint that is not named stays as it was learnt. Its session stays.
   * @throws WasmguardError ERR_CONFIG naming the path; ENOTFOUND of its endpoint
   */
  async setPeer(settings: PeerSettings): Promise<void> {
    const peer = readPeer(settings);
    return this.#inTurn(() => {
      const others = this.#config.peers.filter((other) => !equalKeys(other.publicKey, peer.publicKey));
      return this.#apply({ interface: this.#config.interface, peers: [...others, peer] }, [peer]);
    });
  }

  /** @param publicKey  base64. @returns false when there was none */
  async removePeer(publicKey: string): Promise<boolean> {
    const key = decodeBase64Key(publicKey);
    return this.#inTurn(async () => {
      const peers = this.#config.peers.filter((peer) => !equalKeys(peer.publicKey, key));
      const known = peers.length < this.#config.peers.length;
      await this.#apply({ interface: this.#config.interface, peers }, []);
      return known;
    });
  }

  /**
   * Goes over to another configuration, as `wg syncconf` does: peers that did not change keep session and endpoint, and
   * connections go on. Addresses and MTU cannot change: ERR_CONFIG, and the tunnel is as it was.
   */
  async configure(conf: TunnelConfig): Promise<void> {
    const config = readConfig(conf);
    return this.#inTurn(async () => {
      const [before, after] = [this.#config.interface, config.interface];
      const addresses = (own: Config["interface"]): string => own.addresses.map(formatPrefix).join();
      if (addresses(before) !== addresses(after) || before.mtu !== after.mtu) {
        throw new WasmguardError("ERR_CONFIG", "Cannot change Address or MTU of an open tunnel: open another one");
      }
      const changed = config.peers.filter((peer) => {
        const old = this.#config.peers.find((other) => equalKeys(other.publicKey, peer.publicKey));
        return !old || !samePeer(old, peer);
      });
      await this.#apply(config, changed);
      this.#resolver?.close();
      this.#resolver = this.#newResolver(config);
    });
  }

  /** For programs that want what `wg show` has, keys and all. */
  state(): DeviceState {
    if (this.#ended) return { privateKey: null, listenPort: 0, fwmark: 0, peers: [] };
    return this.#device.state();
  }

  stats(): TunnelStats {
    const peers = this.state().peers.map((peer): PeerStats => {
      const seconds = Number(peer.lastHandshake.sec);
      return {
        publicKey: encodeBase64Key(peer.publicKey),
        endpoint: endpointText(peer.endpoint),
        lastHandshake: seconds === 0 ? null : new Date(seconds * 1000 + peer.lastHandshake.nsec / 1e6),
        rxBytes: Number(peer.rxBytes),
        txBytes: Number(peer.txBytes),
        allowedIps: peer.allowedIps.map(formatPrefix),
        persistentKeepalive: peer.persistentKeepalive,
      };
    });
    const drops = Object.entries(this.#device.device.drops()).map(([reason, count]) => [reason, Number(count)]);
    return {
      listenPort: this.listenPort,
      publicKey: this.publicKey,
      peers,
      drops: Object.fromEntries(drops),
      stackDrops: Object.fromEntries(Object.entries(this.#stack.drops).filter(([, count]) => count > 0)),
      sendErrors: Object.fromEntries(this.#device.errors),
      tcp: this.#stack.tcp.counts(),
      sockets: this.#sockets.size,
      datagrams: this.#datagrams.size,
      servers: this.#servers.size,
    };
  }

  /**
   * Ends it: sockets fail with ERR_TUNNEL_CLOSED, peers get a RST of each connection, the port is closed, keys are wiped.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close(null));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @param failure  what ended it, if nobody asked for it */
  async #close(failure: Error | null): Promise<void> {
    this.#stopListening();
    for (const keeper of this.#keepers.values()) keeper.close();
    for (const agent of this.#agents) agent.destroy();
    for (const server of this.#servers) void server.close();
    for (const datagram of this.#datagrams) datagram.close();
    const error = closedError("go on", failure ?? undefined);
    // Who has no ear for errors would be ended by one, and it is the program itself that closes.
    for (const socket of this.#sockets) socket.destroy(socket.listenerCount("error") > 0 ? error : undefined);
    this.#resolver?.close();
    this.#stack.close();
    // What was just sent leaves at the end of this turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    this.#ended = true;
    await this.#device.close();
    this.emit("closed", { error: failure });
  }

  async #dial(options: ConnectOptions, given: AbortSignal): Promise<TcpConnection> {
    const { host, port, family, localAddress, localPort, timeoutMs } = options;
    this.#checkOpen(`connect to ${formatTarget(host, port)}`);
    const limit = new AbortController();
    const stop = onAbort(given, () => limit.abort(given.reason));
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => limit.abort(TIMED_OUT), timeoutMs);
    try {
      const addresses = await this.#addressesOf(host, family, limit.signal);
      this.#checkOpen(`connect to ${formatTarget(host, port)}`);
      const local = {
        address: localAddress === undefined ? undefined : this.#ownAddress(localAddress),
        port: localPort,
      };
      return await dial({ tcp: this.#stack.tcp, addresses, port, local, host, signal: limit.signal });
    } catch (error) {
      if (limit.signal.reason !== TIMED_OUT) throw error;
      const message = `Cannot connect to ${formatTarget(host, port)}: no answer in ${timeoutMs} ms`;
      throw new WasmguardError("ETIMEDOUT", message, { syscall: "connect" });
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  /** Of a name, those that we have an address to talk from for, and a peer to talk to. */
  async #addressesOf(host: string, family?: 4 | 6, signal?: AbortSignal): Promise<IpAddress[]> {
    const addresses = await this.#lookup(host, family, signal);
    const usable = addresses.filter((ip) => this.#config.interface.addresses.some((own) => own.family === ip.family));
    if (usable.length === 0) {
      const other = addresses[0].family === 4 ? "IPv4" : "IPv6";
      throw new WasmguardError("EADDRNOTAVAIL", `Cannot reach ${quote(host)}: the tunnel has no ${other} address`);
    }
    const reachable = usable.filter((ip) => this.#stack.isOurs(ip) || this.#hasRoute(ip));
    if (reachable.length > 0) return reachable;
    const all = usable.map(({ address }) => formatIp(address)).join(", ");
    throw new WasmguardError("EHOSTUNREACH", `Cannot reach ${quote(host)}: no peer has ${all} in its AllowedIPs`);
  }

  #hasRoute(ip: IpAddress): boolean {
    if (!this.#routes) {
      const { privateKey, peers } = this.state();
      for (const key of [privateKey, ...peers.map(({ presharedKey }) => presharedKey)]) key?.fill(0);
      this.#routes = new Routes(peers.flatMap(({ allowedIps }) => allowedIps));
    }
    return this.#routes.has(ip);
  }

  async #lookup(host: string, family?: 4 | 6, signal?: AbortSignal): Promise<IpAddress[]> {
    const bare = host.startsWith("[") && host.endsWith("]") ? host.slice(1, -1) : host;
    const ip = tryParseIp(bare);
    if (ip && family !== undefined && ip.family !== family) {
      throw new WasmguardError("ENOTFOUND", `Cannot use ${bare}: it is not an IPv${family} address`, {
        syscall: "getaddrinfo",
      });
    }
    if (ip) return [ip];
    if (!this.#resolver) {
      const message = `Cannot resolve ${quote(host)}: the configuration names no DNS server`;
      throw new WasmguardError("ENOTFOUND", message, { syscall: "getaddrinfo" });
    }
    return abortable(this.#resolver.resolve(host, { family, signal }), signal, `resolve ${quote(host)}`);
  }

  #ownAddress(text: string): IpAddress {
    const ip = tryParseIp(text);
    if (ip && this.#stack.isOurs(ip)) return ip;
    throw new WasmguardError("EADDRNOTAVAIL", `${quote(text)} is not an address of this tunnel`, { syscall: "bind" });
  }

  #newResolver({ interface: { dns: servers, searchDomains } }: Config): Resolver | null {
    if (servers.length === 0) return null;
    return new Resolver({ stack: this.#stack, servers, searchDomains, clock: this.#clock, random: fillRandom });
  }

  #ownAgent<T extends TunnelHttpAgent | TunnelHttpsAgent>(agent: T): T {
    this.#checkOpen("make an agent");
    this.#agents.add(agent);
    return agent;
  }

  #checkOpen(what: string): void {
    if (this.#closing) throw closedError(what);
  }

  /** Changes wait for each other: each begins with what the one before has left. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#changes.then(() => {
      this.#checkOpen("configure");
      return change();
    });
    this.#changes = turn.then(() => {}, () => {});
    return turn;
  }

  /** @param changed  the peers of `config` that are new or different */
  async #apply(config: Config, changed: readonly PeerConfig[]): Promise<void> {
    const before = this.#config;
    const resolved = await resolveNames({ interface: config.interface, peers: [...changed] }, {
      retries: RESOLVE_RETRIES,
    });
    this.#checkOpen("configure");
    const find = (key: Uint8Array): PeerConfig | undefined =>
      before.peers.find((peer) => equalKeys(peer.publicKey, key));
    const whole = toDeviceChange({ interface: config.interface, peers: [...changed] }, firstAddresses(resolved));
    const removed = before.peers.filter(({ publicKey }) =>
      !config.peers.some((peer) => equalKeys(peer.publicKey, publicKey))
    );
    const peers: PeerChange[] = removed.map(({ publicKey }) => ({ ...createPeerChange(publicKey), remove: true }));
    for (const change of whole.peers) {
      const old = find(change.publicKey);
      const now = changed.find((peer) => equalKeys(peer.publicKey, change.publicKey))!;
      change.presharedKey ??= new Uint8Array(KEY_LEN);
      change.persistentKeepalive ??= 0;
      // The peer may have roamed away from what the configuration says, and still says.
      if (old && sameEndpoint(old, now)) delete change.endpoint;
      peers.push(change);
    }
    const change: DeviceChange = { replacePeers: false, peers };
    const [own, next] = [before.interface, config.interface];
    if (!equalKeys(own.privateKey!, next.privateKey!)) change.privateKey = next.privateKey;
    if (next.listenPort !== undefined && next.listenPort !== own.listenPort) change.listenPort = next.listenPort;
    try {
      await this.#device.configure(change);
    } finally {
      this.#routes = null;
    }
    this.#config = config;
    for (const { publicKey } of removed) {
      this.#stopKeeping(publicKey);
      this.#events.forget(encodeBase64Key(publicKey));
    }
    for (const peer of changed) {
      const old = find(peer.publicKey);
      if (old && sameEndpoint(old, peer)) continue;
      this.#stopKeeping(peer.publicKey);
      for (const named of namedPeers({ interface: next, peers: [peer] })) this.#keep(named, resolved);
    }
  }

  #keep(peer: NamedPeer, resolved: ReadonlyMap<string, Resolution>): void {
    const keeper = new EndpointKeeper({
      peers: [peer],
      resolved,
      setEndpoint: (publicKey, endpoint) =>
        this.#device.configure({
          replacePeers: false,
          peers: [{ ...createPeerChange(publicKey), updateOnly: true, endpoint }],
        }),
    });
    this.#keepers.set(encodeBase64Key(peer.publicKey), keeper);
    keeper.start();
  }

  #stopKeeping(publicKey: Uint8Array): void {
    const key = encodeBase64Key(publicKey);
    this.#keepers.get(key)?.close();
    this.#keepers.delete(key);
  }

  // Told in a turn of its own: a listener may do anything, and the core is in the middle of something.
  #coreEvent(event: CoreEvent): void {
    if (this.#keepers.size > 0) {
      const publicKey = this.#device.device.peerIdentity(event.peer)?.publicKey;
      if (publicKey) this.#keepers.get(encodeBase64Key(publicKey))?.event(publicKey, event.type);
    }
    const emission = this.#events.read(event);
    if (!emission) return;
    queueMicrotask(() => {
      if (!this.#closing) this.emit(...(emission as ["handshake", ...TunnelEvents["handshake"]]));
    });
  }
}

const TIMED_OUT = Symbol("timed out");

const systemClock: StackClock = {
  now: () => performance.now(),
  setTimer: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
};

const modules = new Map<CoreBuild, Promise<WebAssembly.Module>>();

/** Compiled once a process, whatever number of tunnels it has. */
function sharedCore(build: CoreBuild): Promise<WebAssembly.Module> {
  let module = modules.get(build);
  if (!module) {
    module = compileCore(build);
    module.catch(() => modules.delete(build));
    modules.set(build, module);
  }
  return module;
}

function closedError(what: string, cause?: Error): WasmguardError {
  const why = cause ? `the tunnel has failed: ${cause.message}` : "the tunnel was closed";
  return new WasmguardError("ERR_TUNNEL_CLOSED", `Cannot ${what}: ${why}`, { cause });
}

function checkPort(what: string, port: number, min: number): void {
  if (!Number.isInteger(port) || port < min || port > 65535) {
    throw new RangeError(`Cannot ${what} port ${port}: it is not in ${min}..65535`);
  }
}

function firstAddresses(resolved: ReadonlyMap<string, Resolution>): Map<string, IpAddress> {
  return new Map([...resolved].map(([host, { addresses }]) => [host, addresses[0]]));
}

function keyText(key: Uint8Array | null | undefined): string | null {
  return key ? encodeBase64Key(key) : null;
}

function endpointText(endpoint: Endpoint | null | undefined): string | null {
  return endpoint ? formatEndpoint(endpoint) : null;
}

function sameEndpoint(a: Pick<PeerConfig, "endpoint">, b: Pick<PeerConfig, "endpoint">): boolean {
  return a.endpoint?.host === b.endpoint?.host && a.endpoint?.port === b.endpoint?.port;
}

function samePeer(a: PeerConfig, b: PeerConfig): boolean {
  const none = new Uint8Array(KEY_LEN);
  const ips = (peer: PeerConfig): string => peer.allowedIps.map(formatPrefix).sort().join();
  return (
    sameEndpoint(a, b) &&
    equalKeys(a.presharedKey ?? none, b.presharedKey ?? none) &&
    (a.persistentKeepalive ?? 0) === (b.persistentKeepalive ?? 0) &&
    ips(a) === ips(b)
  );
}
