// class Tunnel as the proxy takes it.

import { Tunnel } from "../tunnel/tunnel.ts";
import type { OpenTunnel, ProxyTunnel } from "./types.ts";
import type { Logger } from "../log.ts";

/** Tunnels of this process over UDP, which say in the log how their peers are. */
export function openTunnel(log: Logger): OpenTunnel {
  return async (config, name) => {
    const tunnel = await Tunnel.open(config);
    tunnel.on("handshake", ({ peer, role }) => log.verbose(`${name}: session with ${peer}, as ${role}`));
    tunnel.on("roamed", ({ peer, endpoint }) => log.verbose(`${name}: ${peer} is at ${endpoint} now`));
    tunnel.on("silent", ({ peer, reason }) => log.verbose(`${name}: ${peer} is silent: ${reason}`));
    return asProxyTunnel(tunnel);
  };
}

export function asProxyTunnel(tunnel: Tunnel): ProxyTunnel {
  return {
    connect: (options) => tunnel.connect(options),
    listen: (options, onSocket) => tunnel.listen(options, onSocket),
    datagram: (options) => tunnel.datagram(options),
    resolve: (name, options) => tunnel.resolve(name, options),
    ping: (address, options) => tunnel.ping(address, options),
    state: () => tunnel.state(),
    drops: () => {
      const { drops, stackDrops } = tunnel.stats();
      const stack = Object.entries(stackDrops).map(([reason, count]) => [`stack-${reason}`, count] as const);
      return new Map<string, number>([...Object.entries(drops), ...stack]);
    },
    configure: (config) => tunnel.configure(config),
    close: () => tunnel.close(),
  };
}
