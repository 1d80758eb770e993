// The panel that talks to a real peer: a configuration, a relay that carries datagrams, the device and the netstack in
// the page, and the inspector on whatever passes. Keys live in this object alone: no storage, no link, and the key log
// that opens the messages is kept in memory until the tunnel is closed.

import { Dissector } from "../capture/dissector.ts";
import type { HandshakeKeys } from "../capture/keylog.ts";
import type { Primitives } from "../capture/primitives.ts";
import { type Config, parseConfig, toDeviceChange } from "../config.ts";
import { type CoreBuild, pickBuild } from "../core.ts";
import { type Endpoint, formatEndpoint, isAddress, toEndpoint } from "../endpoint.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import { encodeBase64Key } from "../keys.ts";
import { Resolver } from "../netstack/resolver.ts";
import { Stack } from "../netstack/stack.ts";
import type { InPacket, StackClock } from "../netstack/types.ts";
import { fillRandom } from "../platform/random.ts";
import { openOver, type PortableDevice } from "../portable-device.ts";
import { EVENT_NAMES } from "../simulator/node.ts";
import { EVENTS, explain } from "../simulator/reasons.ts";
import { WebSocketTransport } from "../transport/websocket.ts";
import { button, h, messageOf, Notice, replace } from "./dom.ts";
import { get } from "./http.ts";
import { type Listed, MessageList } from "./messages.ts";
import { TappedTransport } from "./tapped.ts";

/** the newest are kept */
const MESSAGES_MAX = 500;
const LOG_MAX = 100;
const REFRESH_MS = 500;
const TEXT_SHOWN = 4096;
const PING_TIMEOUT_MS = 5000;

const clock: StackClock = {
  now: () => performance.now(),
  setTimer: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer as number),
};

/** One tunnel, from connect to disconnect. */
interface Link {
  device: PortableDevice;
  stack: Stack;
  resolver: Resolver | null;
  messages: Listed[];
  lost: Map<string, number>;
  timer: ReturnType<typeof setInterval>;
}

const EXAMPLE =
  "[Interface]\nPrivateKey = …\nAddress = 10.0.0.2/32\n\n" +
  "[Peer]\nPublicKey = …\nEndpoint = vpn.example:51820\nAllowedIPs = 10.0.0.0/24";

export class RealPanel {
  readonly element: HTMLElement;
  readonly #crypto: Primitives;
  readonly #notice = new Notice();
  readonly #conf = h("textarea", {
    id: "conf",
    rows: 10,
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    placeholder: EXAMPLE,
  });
  readonly #relay = h("input", {
    id: "relay",
    type: "url",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "wss://relay.example",
  });
  readonly #token = h("input", { id: "token", type: "password", autocomplete: "off" });
  readonly #connect = button("Connect", () => void this.#open(), { class: "primary", id: "connect" });
  readonly #disconnect = button("Disconnect", () => void this.#close(), { id: "disconnect", disabled: true });
  readonly #state = h("div", { class: "state", id: "peer-state", role: "status" });
  readonly #log = h("ol", { class: "log", "aria-label": "Events" });
  readonly #pingTo = h("input", { id: "ping-to", autocomplete: "off", spellcheck: "false", placeholder: "10.0.0.1" });
  readonly #getUrl = h("input", {
    id: "get-url",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "http://10.0.0.1/",
  });
  readonly #ping = button("Ping", () => void this.#use((link) => this.#sendPing(link)), { id: "ping", disabled: true });
  readonly #get = button("GET", () => void this.#use((link) => this.#fetch(link)), { id: "get", disabled: true });
  readonly #output = h("pre", { class: "output", id: "output", "aria-live": "polite", tabindex: 0 });
  readonly #list = new MessageList("Messages appear here as they pass, opened with this page's own keys.", true);
  #link: Link | null = null;

  constructor(crypto: Primitives) {
    this.#crypto = crypto;
    this.element = h(
      "div",
      { class: "panel" },
      h(
        "div",
        { class: "columns" },
        h(
          "section",
          { class: "card", "aria-label": "Connection" },
          h("h3", {}, "Connect"),
          h(
            "p",
            { class: "muted" },
            "A page has no UDP, so a relay carries its datagrams. It sees ciphertext only, and the configuration stays in " +
              "this page's memory. Whoever runs the relay starts it with:",
          ),
          h("pre", { class: "output" }, `wasmguard relay --allow HOST:PORT --origin ${location.origin}`),
          h("label", { for: "conf" }, "Configuration (wg-quick)", this.#conf),
          h("label", { for: "relay" }, "Relay", this.#relay),
          h("label", { for: "token" }, "Relay's token, if it wants one", this.#token),
          h("div", { class: "actions" }, this.#connect, this.#disconnect),
        ),
        h(
          "section",
          { class: "card", "aria-label": "Tunnel" },
          h("h3", {}, "Tunnel"),
          this.#state,
          this.#log,
          h("h4", {}, "Try it"),
          h(
            "div",
            { class: "try" },
            h("label", { for: "ping-to" }, "Ping", this.#pingTo),
            this.#ping,
            h("label", { for: "get-url" }, "HTTP GET", this.#getUrl),
            this.#get,
          ),
          this.#output,
        ),
      ),
      this.#notice.element,
      this.#list.element,
    );
    this.#showState();
  }

  async #open(): Promise<void> {
    this.#notice.clear();
    this.#connect.disabled = true;
    try {
      this.#link = await this.#openLink();
      this.#list.show(this.#link.messages);
    } catch (error) {
      this.#notice.error(error);
    }
    this.#showState();
  }

  async #openLink(): Promise<Link> {
    const config = parseConfig(this.#conf.value);
    checkConfig(config);
    const websocket = new WebSocketTransport({
      relay: this.#relay.value.trim(),
      token: this.#token.value || undefined,
    });
    const names = new Map<string, string>();
    const endpoints = config.peers.map(
      ({ endpoint }) => endpoint && findEndpoint(websocket, endpoint.host, endpoint.port, names),
    );
    const dissector = new Dissector(this.#crypto);
    const messages: Listed[] = [];
    const lost = new Map<string, number>();
    const started = performance.now();
    let number = 0;
    const tapped = new TappedTransport(websocket, (incoming, bytes, remote) => {
      const copy = new Uint8Array(bytes);
      const text = formatEndpoint(remote);
      const where = names.get(text) ?? text;
      messages.push({
        number: ++number,
        time: `${((performance.now() - started) / 1000).toFixed(3)} s`,
        way: incoming ? `${where} → us` : `us → ${where}`,
        bytes: copy,
        dissection: dissector.dissect(copy),
      });
      if (messages.length > MESSAGES_MAX) messages.shift();
      this.#changed = true;
    });
    let asked = false;
    tapped.onLost = (code) => {
      lost.set(code, (lost.get(code) ?? 0) + 1);
      // A WebSocket that is refused does not say why; the relay does, when it is asked.
      if (code !== "ECONNREFUSED" || asked) return;
      asked = true;
      for (const endpoint of endpoints)
        if (endpoint) websocket.check(endpoint).catch((error: unknown) => this.#notice.error(error));
    };
    let input = (_: InPacket): void => {};
    replace(this.#log);
    const device = await openOver(tapped, {
      build: pageBuild(),
      mtu: config.interface.mtu,
      onInput: (packet) => input(packet),
      onEvent: ({ type }) => this.#event(EVENT_NAMES[type], performance.now() - started),
      onHandshakeKeys: (keys) => dissector.addKeys(keyLogOf(keys)),
    });
    try {
      const stack = new Stack({ link: device.link, addresses: config.interface.addresses, clock, random: fillRandom });
      input = (packet) => stack.input(packet);
      const { dns: servers, searchDomains } = config.interface;
      const resolver =
        servers.length > 0 ? new Resolver({ stack, servers, searchDomains, clock, random: fillRandom }) : null;
      // Names are the relay's to resolve: theirs are addresses that stand for them.
      const nowhere = new Map<string, IpAddress>(
        config.peers.flatMap(({ endpoint }) =>
          endpoint ? [[endpoint.host, { family: 6, address: new Uint8Array(16) }] as const] : [],
        ),
      );
      const change = { ...toDeviceChange(config, nowhere), listenPort: 0, fwmark: 0 };
      change.peers.forEach((peer, i) => (peer.endpoint = endpoints[i]));
      await device.configure(change);
      await device.up();
      device.device.beginHandshakes();
      return { device, stack, resolver, messages, lost, timer: setInterval(() => this.#refresh(), REFRESH_MS) };
    } catch (error) {
      await device.close();
      throw error;
    }
  }

  async #close(): Promise<void> {
    const link = this.#link;
    if (!link) return;
    this.#link = null;
    clearInterval(link.timer);
    link.resolver?.close();
    link.stack.close();
    await link.device.close();
    this.#list.update();
    this.#showState();
  }

  #changed = false;

  #refresh(): void {
    this.#showState();
    if (!this.#changed) return;
    this.#changed = false;
    this.#list.update();
  }

  #showState(): void {
    const link = this.#link;
    this.#connect.disabled = link !== null;
    for (const each of [this.#disconnect, this.#ping, this.#get]) each.disabled = link === null;
    if (!link) return replace(this.#state, h("p", { class: "muted" }, "○ not connected"));
    const drops = Object.entries(link.device.device.drops());
    const peers = link.device.state().peers.map((peer) => {
      const last = Number(peer.lastHandshake.sec);
      const age = Math.max(0, Math.round(Date.now() / 1000 - last));
      peer.presharedKey.fill(0);
      return h(
        "li",
        {},
        h("strong", { class: "mono" }, `${encodeBase64Key(peer.publicKey).slice(0, 8)}…`),
        last === 0 ? h("span", {}, " ○ no handshake yet") : h("span", { class: "ok" }, ` ● handshake ${age} s ago`),
        h("span", { class: "muted" }, ` · ${peer.rxBytes} B received, ${peer.txBytes} B sent`),
      );
    });
    replace(
      this.#state,
      h("ul", { class: "plain" }, ...peers),
      drops.length > 0
        ? h(
            "ul",
            { class: "results" },
            ...drops.map(([reason, count]) =>
              h(
                "li",
                { class: "wrong" },
                `✗ refused: ${reason} × ${count}`,
                h("span", { class: "why" }, ` ${explain(snakeCase(reason)) ?? ""}`),
              ),
            ),
          )
        : null,
      link.lost.size > 0
        ? h(
            "p",
            { class: "wrong" },
            `✗ lost on the way to the relay: ${[...link.lost].map(([code, count]) => `${code} × ${count}`).join(", ")}`,
          )
        : null,
    );
  }

  #event(name: string | undefined, ms: number): void {
    if (name === undefined) return;
    this.#log.prepend(
      h(
        "li",
        {},
        h("span", { class: "muted mono" }, `${(ms / 1000).toFixed(3)} s `),
        h("code", {}, name),
        ` ${EVENTS[name] ?? ""}`,
      ),
    );
    while (this.#log.children.length > LOG_MAX) this.#log.lastChild!.remove();
  }

  /** Runs something that takes time, and shows what came of it. */
  async #use(work: (link: Link) => Promise<string>): Promise<void> {
    const link = this.#link;
    if (!link) return;
    this.#notice.clear();
    this.#ping.disabled = this.#get.disabled = true;
    this.#output.textContent = "…";
    try {
      this.#output.textContent = await work(link);
    } catch (error) {
      this.#output.textContent = `✗ ${messageOf(error)}`;
    }
    this.#refresh();
  }

  async #sendPing(link: Link): Promise<string> {
    const name = this.#pingTo.value.trim() || this.#pingTo.placeholder;
    const to = await resolve(link, name);
    const { ms, from, bytes, hopLimit } = await link.stack.icmp.ping(to, { timeoutMs: PING_TIMEOUT_MS });
    return `✓ ${bytes} bytes from ${formatIp(from.address)}: ${ms.toFixed(1)} ms, hop limit ${hopLimit}`;
  }

  async #fetch(link: Link): Promise<string> {
    const text = this.#getUrl.value.trim() || this.#getUrl.placeholder;
    let url: URL;
    try {
      url = new URL(/^[a-z]+:\/\//i.test(text) ? text : `http://${text}`);
    } catch {
      throw new RangeError(`"${text}" is no URL`);
    }
    if (url.protocol !== "http:") throw new RangeError("Only http: is spoken in this page; the tunnel encrypts it");
    const to = await resolve(link, url.hostname.replace(/^\[(.*)\]$/, "$1"));
    const started = performance.now();
    const { status, headers, body, cut } = await get(link.stack.tcp, to, url);
    const shown = new TextDecoder().decode(body.subarray(0, TEXT_SHOWN));
    const more = body.length > TEXT_SHOWN || cut ? `\n… (${cut ? "more than " : ""}${body.length} bytes)` : "";
    return `${status}   (${Math.round(performance.now() - started)} ms)\n${headers.join("\n")}\n\n${shown}${more}`;
  }
}

/** The fastest build where the page is isolated, else the one without shared memory. */
export function pageBuild(): CoreBuild {
  return globalThis.crossOriginIsolated ? pickBuild() : "page";
}

/** The device tells "badMac1", the core's names are "bad_mac1". */
function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** What a page cannot do without. @throws RangeError */
function checkConfig({ interface: own, peers }: Config): void {
  if (!own.privateKey) throw new RangeError("The configuration has no PrivateKey");
  if (own.addresses.length === 0) throw new RangeError("The configuration has no Address");
  if (!peers.some(({ endpoint }) => endpoint))
    throw new RangeError("The configuration has no [Peer] with an Endpoint: a page cannot be called");
}

function findEndpoint(transport: WebSocketTransport, host: string, port: number, names: Map<string, string>): Endpoint {
  if (isAddress(host)) return toEndpoint(host, port);
  const endpoint = transport.named(host, port);
  names.set(formatEndpoint(endpoint), `${host}:${port}`);
  return endpoint;
}

function keyLogOf({ localStaticPrivate, remoteStaticPublic, localEphemeralPrivate, presharedKey }: HandshakeKeys) {
  return {
    staticPrivate: [localStaticPrivate.slice()],
    staticPublic: [remoteStaticPublic.slice()],
    ephemerals: [{ privateKey: localEphemeralPrivate.slice(), presharedKey: presharedKey.slice() }],
  };
}

async function resolve({ resolver, stack }: Link, name: string): Promise<IpAddress> {
  if (isAddress(name)) {
    const { family, address } = toEndpoint(name, 1);
    return { family, address };
  }
  if (!resolver) throw new RangeError(`"${name}" is a name, and the configuration has no DNS`);
  const [first] = await resolver.resolve(name);
  if (!stack.sourceFor(first)) throw new RangeError(`${name} has no address of a family of ours`);
  return first;
}
