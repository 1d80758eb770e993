// The world of proxy-fixture.ts behind a real tunnel: two Tunnels in this process, over UDP on loopback. The far one
// has servers, and a name server for what the proxy resolves.

import * as dnsPacket from "@leichtgewicht/dns-packet";
import type { Config } from "../../host/config.ts";
import { asProxyTunnel } from "../../host/proxy/tunnel.ts";
import type { ProxyTunnel } from "../../host/proxy/types.ts";
import { Tunnel } from "../../host/tunnel/tunnel.ts";
import type { Dialer } from "../../host/tunnel/types.ts";
import { newKeys } from "../helpers/system.ts";
import { World } from "./proxy-fixture.ts";

const NEAR = "10.7.0.1";
const FAR = "10.7.0.2";
const DNS_PORT = 53;

class TunnelWorld extends World {
  override readonly far: Dialer;
  override readonly host = FAR;
  readonly #far: Tunnel;
  readonly #conf: string;
  readonly #near: Tunnel[] = [];

  constructor(far: Tunnel, conf: string) {
    super();
    this.far = this.#far = far;
    this.#conf = conf;
    const dns = far.datagram({ port: DNS_PORT });
    dns.on("message", (message: Uint8Array, from: { address: string; port: number }) => {
      const { id, questions = [] } = dnsPacket.decode(Buffer.from(message));
      const [{ name, type }] = questions;
      const data = (this.names[name] ?? []).filter((address) => address.includes(":") === (type === "AAAA"));
      const answers = data.map((address) => ({ type: type as "A", name, ttl: 5, data: address }));
      const flags = this.names[name] ? 0 : 3; // NXDOMAIN
      const answer = dnsPacket.encode({ type: "response", id, flags, questions, answers });
      dns.send(new Uint8Array(answer), from.port, from.address).catch(() => {});
    });
  }

  override openTunnel(config: Config): Promise<never> {
    return this.#openTunnel(config) as Promise<never>;
  }

  async #openTunnel(config: Config): Promise<ProxyTunnel> {
    const tunnel = await Tunnel.open(config, { bindAddress: "127.0.0.1" });
    this.#near.push(tunnel);
    return asProxyTunnel(tunnel);
  }

  override open(): number {
    return this.#near.reduce((sum, tunnel) => sum + tunnel.stats().sockets, 0);
  }

  override near(): string {
    return NEAR;
  }

  override conf(): string {
    return this.#conf;
  }

  override async close(): Promise<void> {
    await super.close();
    await this.#far.close();
  }
}

export async function tunnelWorld(): Promise<World> {
  const [near, far] = [newKeys(), newKeys()];
  const tunnel = await Tunnel.open(
    `[Interface]\nPrivateKey = ${far.privateKey}\nAddress = ${FAR}/32\n` +
      `[Peer]\nPublicKey = ${near.publicKey}\nAllowedIPs = ${NEAR}/32\n`,
    { bindAddress: "127.0.0.1" },
  );
  const conf =
    `[Interface]\nPrivateKey = ${near.privateKey}\nAddress = ${NEAR}/32\nDNS = ${FAR}\n` +
    `[Peer]\nPublicKey = ${far.publicKey}\nAllowedIPs = ${FAR}/32\n` +
    `Endpoint = 127.0.0.1:${tunnel.listenPort}\nPersistentKeepalive = 25\n`;
  return new TunnelWorld(tunnel, conf);
}
