// One file's tunnel and the services of it. The tunnel may be reconfigured or replaced under services that stay.

import { WasmguardError } from "../errors.ts";
import type { Logger } from "../log.ts";
import { AliveCheck, type Health } from "./check-alive.ts";
import { type ProxyFile, sameInterface } from "./file.ts";
import { startService } from "./service.ts";
import { type ServiceSpec, describe, identity } from "./spec.ts";
import { type StandardStreams, StdioTunnel } from "./stdio.ts";
import { Tally } from "./tally.ts";
import type { OpenTunnel, ProxyTunnel, Service, ServiceContext } from "./types.ts";

export interface RunningService {
  spec: ServiceSpec;
  service: Service;
  tally: Tally;
}

export interface HomeSettings {
  openTunnel: OpenTunnel;
  log: Logger;
  maxClients: number;
  handshakeMs?: number;
  streams: () => StandardStreams;
  /** called when a [STDIOTunnel] is over */
  onStdioEnded: (error: Error | undefined) => void;
}

export class Home {
  file: ProxyFile;
  readonly #settings: HomeSettings;
  /** by identity of the spec */
  readonly #services = new Map<string, RunningService>();
  #tunnel: ProxyTunnel;
  #alive: AliveCheck;

  private constructor(file: ProxyFile, tunnel: ProxyTunnel, settings: HomeSettings) {
    this.file = file;
    this.#tunnel = tunnel;
    this.#settings = settings;
    this.#alive = new AliveCheck(file.sections.checkAlive, tunnel);
  }

  /** The tunnel alone. Rejects with an error that names the file. */
  static async open(file: ProxyFile, settings: HomeSettings): Promise<Home> {
    return new Home(file, await openNamed(file, settings), settings);
  }

  get tunnel(): ProxyTunnel {
    return this.#tunnel;
  }

  get services(): RunningService[] {
    return [...this.#services.values()];
  }

  has(spec: ServiceSpec): boolean {
    return this.#services.has(identity(spec));
  }

  health(): Health {
    return this.#alive.health();
  }

  /** Rejects with an error that names the address. */
  async start(spec: ServiceSpec): Promise<void> {
    const { log, maxClients, handshakeMs, streams, onStdioEnded } = this.#settings;
    const tally = new Tally();
    const prefer = () => this.file.sections.family;
    const context: ServiceContext = { tunnel: () => this.#tunnel, log, tally, maxClients, prefer, handshakeMs };
    let service: Service;
    try {
      service = await startService(spec, context, streams);
    } catch (error) {
      if (error instanceof WasmguardError) throw error;
      const { code = "EIO", message } = error as NodeJS.ErrnoException;
      throw new WasmguardError(code, `Cannot start ${describe(spec)}: ${message}`, { cause: error });
    }
    this.#services.set(identity(spec), { spec, service, tally });
    if (service instanceof StdioTunnel) void service.ended.then(onStdioEnded);
    log.verbose(`${this.file.name}: ${describe(spec)}, at ${service.address}`);
  }

  async stop(spec: ServiceSpec): Promise<void> {
    const running = this.#services.get(identity(spec));
    if (!running) return;
    this.#services.delete(identity(spec));
    await running.service.stop();
    this.#settings.log.verbose(`${this.file.name}: ended ${describe(spec)}`);
  }

  /**
   * Takes the tunnel over to another file's state; services go on. Rejects with everything as it was, unless the old
   * tunnel had to be given up for the new one's port and could not be had again.
   */
  async change(file: ProxyFile): Promise<void> {
    const old = this.file;
    if (sameInterface(old.config, file.config)) await this.#tunnel.configure(file.config);
    else await this.#replace(file);
    this.file = file;
    this.#checkAlive();
  }

  async close(): Promise<void> {
    this.#alive.stop();
    const services = this.services;
    this.#services.clear();
    await Promise.all(services.map(({ service }) => service.stop()));
    await this.#tunnel.close();
  }

  /** From here on of the present file and tunnel. */
  #checkAlive(): void {
    this.#alive.stop();
    this.#alive = new AliveCheck(this.file.sections.checkAlive, this.#tunnel);
  }

  async #replace(file: ProxyFile): Promise<void> {
    const old = this.#tunnel;
    const port = file.config.interface.listenPort ?? 0;
    const wantsOldPort = port !== 0 && port === old.state().listenPort;
    if (wantsOldPort) await old.close();
    try {
      this.#tunnel = await openNamed(file, this.#settings);
    } catch (error) {
      if (wantsOldPort) {
        this.#tunnel = await openNamed(this.file, this.#settings);
        this.#checkAlive();
        await this.#tellServices();
      }
      throw error;
    }
    if (!wantsOldPort) await old.close();
    this.#settings.log.verbose(`${file.name}: the tunnel was opened again for its new Address or MTU`);
    await this.#tellServices();
  }

  async #tellServices(): Promise<void> {
    for (const { spec, service } of this.#services.values()) {
      try {
        await service.tunnelReplaced?.();
      } catch (error) {
        this.#settings.log.error(`${this.file.name}: ${describe(spec)}: ${(error as Error).message}`);
      }
    }
  }
}

async function openNamed(file: ProxyFile, { openTunnel }: HomeSettings): Promise<ProxyTunnel> {
  try {
    return await openTunnel(file.config, file.name);
  } catch (error) {
    const { code = "EIO", message } = error as NodeJS.ErrnoException;
    throw new WasmguardError(code, `Cannot open the tunnel of ${file.path}: ${message}`, { cause: error });
  }
}
