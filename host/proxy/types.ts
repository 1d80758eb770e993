// What the proxy needs of a tunnel beyond dialling, and what its services share. The proxy works on these types alone:
// class Tunnel stands behind them in the command, the plain network in tests of the proxy itself.

import type { Config } from "../config.ts";
import type { DeviceState } from "../model.ts";
import type { Logger } from "../log.ts";
import type { Dialer } from "../tunnel/types.ts";
import type { FamilyPreference } from "./dial.ts";
import type { Tally } from "./tally.ts";

export interface ProxyTunnel extends Dialer {
  /** Fulfilled when an echo came back. Rejects with ETIMEDOUT and the like. */
  ping(address: string, options: { timeoutMs: number; signal?: AbortSignal }): Promise<unknown>;
  /** For counters and health: nothing secret of it is shown. */
  state(): DeviceState;
  /** Packets dropped so far, by the reason's name. */
  drops(): ReadonlyMap<string, number>;
  /**
   * Goes over to another configuration with the same Address and MTU: peers that did not change keep their sessions.
   * Rejects with the tunnel as it was.
   */
  configure(config: Config): Promise<void>;
  close(): Promise<void>;
}

/** Opens the tunnel of a file. @param name  for logs */
export type OpenTunnel = (config: Config, name: string) => Promise<ProxyTunnel>;

/** What a service is started with. The tunnel may be replaced by another one while the service lives. */
export interface ServiceContext {
  tunnel: () => Dialer;
  log: Logger;
  tally: Tally;
  /** connections or sessions of one service at a time */
  maxClients: number;
  /** which addresses of a name come first */
  prefer: () => FamilyPreference;
  /** milliseconds that a client has for its handshake or headers; default 30 s */
  handshakeMs?: number;
}

/** A listener or forward that runs. */
export interface Service {
  /** where it listens: "127.0.0.1:1080", "unix:/run/x", "10.0.0.2:80 in the tunnel" */
  readonly address: string;
  /** Takes its listener back and ends its connections. Resolves when both are gone. */
  stop(): Promise<void>;
  /** The tunnel has been replaced: what listens in it must listen again. */
  tunnelReplaced?(): Promise<void>;
}
