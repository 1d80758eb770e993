// UDP forwards: a port of ours to a place behind the tunnel, and a port in the tunnel to a place here. A session takes
// datagrams of its target alone, as a connected socket would.

import { type Socket, createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import type { HostPort } from "../endpoint.ts";
import { isAddress } from "../endpoint.ts";
import { parseIp, formatIp } from "../ip.ts";
import type { DatagramSender, TunnelDatagram } from "../tunnel/types.ts";
import { formatBind, formatHostPort, unmapped } from "./address.ts";
import { classify } from "./failure.ts";
import type { ServiceSpec } from "./spec.ts";
import type { Service, ServiceContext } from "./types.ts";
import { type OpenBack, UDP_IDLE_MS, UdpSessions } from "./udp-sessions.ts";
import { bindUdp } from "./udp-socket.ts";

type ForwardSpec = Extract<ServiceSpec, { kind: "udp-forward" }>;
type ReverseSpec = Extract<ServiceSpec, { kind: "udp-reverse" }>;

/** Clients here, the target there. */
export class UdpForward implements Service {
  readonly address: string;
  readonly #socket: Socket;
  readonly #sessions: UdpSessions;

  private constructor(spec: ForwardSpec, context: ServiceContext, socket: Socket) {
    const { tally } = context;
    const bound = socket.address();
    this.address = formatHostPort(bound.address, bound.port);
    this.#socket = socket;
    this.#sessions = createSessions(spec, context, backInTunnel(spec.target, context), (payload, port, address) => {
      socket.send(payload, port, address, (error) => {
        if (error) tally.dropped(classify(error).reason);
      });
    });
    socket.on("message", (payload, from) => this.#sessions.receive(payload, from.address, from.port));
    socket.on("error", () => tally.dropped("other"));
  }

  static async start(spec: ForwardSpec, context: ServiceContext): Promise<UdpForward> {
    const socket = createSocket(await socketType(spec.bind.host));
    await bindUdp(socket, spec.bind);
    return new UdpForward(spec, context, socket);
  }

  stop(): Promise<void> {
    this.#sessions.close();
    return new Promise((resolve) => this.#socket.close(() => resolve()));
  }

  async tunnelReplaced(): Promise<void> {
    this.#sessions.clear();
  }
}

/** Clients there, the target here. */
export class UdpReverse implements Service {
  readonly #spec: ReverseSpec;
  readonly #context: ServiceContext;
  readonly #sessions: UdpSessions;
  #datagram: TunnelDatagram;

  private constructor(spec: ReverseSpec, context: ServiceContext) {
    this.#spec = spec;
    this.#context = context;
    this.#sessions = createSessions(spec, context, backHere(spec.target), (payload, port, address) => {
      this.#datagram.send(payload, port, address).catch((error: unknown) => {
        context.tally.dropped(classify(error).reason);
      });
    });
    this.#datagram = this.#listen();
  }

  static async start(spec: ReverseSpec, context: ServiceContext): Promise<UdpReverse> {
    return new UdpReverse(spec, context);
  }

  get address(): string {
    return `${formatBind(this.#spec.inner)} in the tunnel`;
  }

  async stop(): Promise<void> {
    this.#sessions.close();
    this.#datagram.close();
  }

  async tunnelReplaced(): Promise<void> {
    this.#sessions.clear();
    this.#datagram = this.#listen();
  }

  #listen(): TunnelDatagram {
    const { host, port } = this.#spec.inner;
    const datagram = this.#context.tunnel().datagram({ port, host: host || undefined });
    datagram.on("message", (payload: Uint8Array, from: DatagramSender) => {
      this.#sessions.receive(payload, from.address, from.port);
    });
    datagram.on("error", () => {}); // a client that is gone is not the end of the others
    return datagram;
  }
}

function createSessions(
  spec: ForwardSpec | ReverseSpec,
  { tally, maxClients, log }: ServiceContext,
  openBack: OpenBack,
  reply: (payload: Uint8Array, port: number, address: string) => void,
): UdpSessions {
  const onFailure = (error: unknown) => {
    const { reason, words } = classify(error);
    tally.dropped(reason);
    log.verbose(`${spec.kind} to ${formatBind(spec.target)}: ${words}`);
  };
  const idleMs = spec.idleSec === undefined ? UDP_IDLE_MS : spec.idleSec * 1000;
  return new UdpSessions({ openBack, reply, tally, max: maxClients, idleMs, onFailure });
}

function backInTunnel({ host, port }: HostPort, { tunnel, prefer }: ServiceContext): OpenBack {
  return async (onMessage, onClose) => {
    const dialer = tunnel();
    const addresses = isAddress(host) ? [host] : await dialer.resolve(host);
    const isPreferred = (address: string) => address.includes(":") === (prefer() === "ipv6");
    const found = (prefer() === "auto" ? undefined : addresses.find(isPreferred)) ?? addresses[0];
    if (found === undefined) throw Object.assign(new Error("no address"), { code: "ENOTFOUND" });
    const address = canonical(found);
    const datagram = dialer.datagram();
    datagram.on("message", (payload: Uint8Array, from: DatagramSender) => {
      if (from.port === port && canonical(unmapped(from.address)) === address) onMessage(payload);
    });
    datagram.on("error", () => {}); // the target's port may open later
    datagram.on("close", onClose);
    return { send: (payload) => datagram.send(payload, port, address), close: () => datagram.close() };
  };
}

function backHere({ host, port }: HostPort): OpenBack {
  return async (onMessage, onClose) => {
    const { address, family } = await lookup(host);
    const socket = createSocket(family === 6 ? "udp6" : "udp4");
    await new Promise<void>((resolve, reject) => {
      const fail = (error: Error) => {
        socket.off("error", fail).on("error", () => {});
        socket.close();
        reject(error);
      };
      socket.once("error", fail);
      // Node gives the error to the callback, which its types do not know.
      socket.connect(port, address, ((error?: Error) => {
        if (error) return fail(error);
        socket.off("error", fail);
        resolve();
      }) as () => void);
    });
    socket.on("message", onMessage);
    socket.on("error", () => {}); // refused: the target's port may open later
    socket.on("close", onClose);
    return {
      send: (payload) =>
        new Promise((resolve, reject) => {
          socket.send(payload, (error) => (error ? reject(error) : resolve()));
        }),
      close: () => socket.close(),
    };
  };
}

/** Every address of ours is IPv6's "any", which takes both. */
async function socketType(host: string): Promise<"udp4" | "udp6"> {
  if (host === "") return "udp6";
  const family = isAddress(host) ? (host.includes(":") ? 6 : 4) : (await lookup(host)).family;
  return family === 6 ? "udp6" : "udp4";
}

/** One text for one address. */
function canonical(address: string): string {
  return formatIp(parseIp(address.replace(/%.*/, "")).address);
}
