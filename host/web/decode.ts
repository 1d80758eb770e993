// The panel that reads captures: a pcap or pcapng and a key log in, messages out, all within the page. It works in
// slices of some milliseconds, so that a large file freezes nothing, and gives up its work when another file comes.

import { Dissector } from "../capture/dissector.ts";
import { parseKeyLog } from "../capture/keylog.ts";
import { readCapture, SECRETS_WIREGUARD } from "../capture/pcapng.ts";
import type { Primitives } from "../capture/primitives.ts";
import { type Side, udpDatagram } from "../capture/udp-packet.ts";
import { formatIp } from "../ip.ts";
import { breath, h, messageOf, Notice } from "./dom.ts";
import { type Listed, MessageList } from "./messages.ts";

/** bytes: the file is held in memory */
export const FILE_MAX_SIZE = 200 << 20;
const KEY_LOG_MAX_SIZE = 4 << 20;
/** more are counted, and not kept */
const MESSAGES_MAX = 20_000;
const SLICE_MS = 12;

export class DecodePanel {
  readonly element: HTMLElement;
  readonly #crypto: Primitives;
  readonly #notice = new Notice();
  readonly #summary = h("p", { class: "muted", role: "status", "aria-live": "polite", id: "decode-summary" });
  readonly #list = new MessageList("Choose a message of the list.");
  #capture: { name: string; bytes: Uint8Array } | null = null;
  #keys: { name: string; text: string } | null = null;
  /** counts the runs: one that is not the newest stops */
  #run = 0;

  constructor(crypto: Primitives) {
    this.#crypto = crypto;
    const capture = h("input", {
      type: "file",
      id: "capture-file",
      accept: ".pcap,.pcapng,.cap",
      onchange: () => void this.#take(capture.files),
    });
    const keys = h("input", { type: "file", id: "key-file", onchange: () => void this.#take(keys.files) });
    const zone = h(
      "div",
      { class: "drop card" },
      h(
        "p",
        {},
        h("strong", {}, "Drop a capture and a key log here"),
        ", or choose them. They stay in this page: nothing is sent anywhere.",
      ),
      h(
        "div",
        { class: "pair" },
        h("label", { for: "capture-file" }, "Capture (pcap, pcapng)", capture),
        h("label", { for: "key-file" }, "Key log", keys),
      ),
      h(
        "p",
        { class: "muted" },
        "wasmguard --pcap FILE writes captures with their keys inside, wasmguard --keylog FILE key logs as Wireshark " +
          "reads them. At most 200 MiB.",
      ),
    );
    for (const name of ["dragenter", "dragover"] as const)
      zone.addEventListener(name, (event) => {
        event.preventDefault();
        zone.classList.add("over");
      });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      void this.#take(event.dataTransfer?.files ?? null);
    });
    this.element = h("div", { class: "panel" }, zone, this.#notice.element, this.#summary, this.#list.element);
  }

  /** Files, of either kind: which is which shows in them. */
  async #take(files: FileList | null): Promise<void> {
    this.#notice.clear();
    try {
      for (const file of files ?? []) await this.#read(file);
      if (this.#capture) await this.#decode();
      else if (this.#keys) this.#summary.textContent = `Keys of ${this.#keys.name} are ready. Now a capture.`;
    } catch (error) {
      this.#notice.error(error);
    }
  }

  async #read(file: File): Promise<void> {
    if (file.size > FILE_MAX_SIZE)
      throw new RangeError(
        `${file.name} has ${file.size >> 20} MiB, and ${FILE_MAX_SIZE >> 20} MiB are the most: cut it with editcap`,
      );
    const start = new Uint8Array(await file.slice(0, 64).arrayBuffer());
    if (looksLikeText(start)) {
      if (file.size > KEY_LOG_MAX_SIZE)
        throw new RangeError(`${file.name} has ${Math.round(file.size / 1e6)} MB: too much for a key log`);
      const text = await file.text();
      parseKeyLog(text);
      this.#keys = { name: file.name, text };
    } else {
      this.#capture = { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) };
    }
  }

  async #decode(): Promise<void> {
    const run = ++this.#run;
    const { name, bytes } = this.#capture!;
    const dissector = new Dissector(this.#crypto);
    const problems: string[] = [];
    const addKeys = (text: string, where: string): void => {
      try {
        dissector.addKeys(parseKeyLog(text));
      } catch (error) {
        problems.push(`${where}: ${messageOf(error)}`);
      }
    };
    if (this.#keys) addKeys(this.#keys.text, this.#keys.name);
    const messages: Listed[] = [];
    const counts = { packets: 0, messages: 0, other: 0 };
    let first: bigint | null = null;
    let slice = performance.now();
    this.#list.show([]);
    try {
      for (const item of readCapture(bytes)) {
        if (performance.now() - slice > SLICE_MS) {
          this.#summary.textContent = `${name}: ${counts.packets} packets read …`;
          await breath();
          if (run !== this.#run) return;
          slice = performance.now();
        }
        if (item.type === "secrets") {
          if (item.kind === SECRETS_WIREGUARD) addKeys(item.text, "keys in the capture");
          continue;
        }
        counts.packets++;
        first ??= item.nanoseconds;
        const datagram = udpDatagram(item.bytes, item.linkType);
        if (!datagram || !maybeWireguard(datagram.payload)) {
          counts.other++;
          continue;
        }
        counts.messages++;
        if (counts.messages > MESSAGES_MAX) continue;
        messages.push({
          number: counts.packets,
          time: `${(Number(item.nanoseconds - first) / 1e9).toFixed(6)} s`,
          way: `${formatSide(datagram.source)} → ${formatSide(datagram.destination)}`,
          bytes: datagram.payload,
          dissection: dissector.dissect(datagram.payload),
        });
      }
    } catch (error) {
      problems.push(messageOf(error));
    }
    this.#list.show(messages);
    const kept = counts.messages > MESSAGES_MAX ? `; the first ${MESSAGES_MAX} are listed` : "";
    const keys = this.#keys ? `; keys of ${this.#keys.name}` : "";
    this.#summary.textContent = `${name}: ${counts.messages} WireGuard messages${kept}, ${counts.other} other packets${keys}`;
    if (problems.length > 0) this.#notice.show(problems.join(" · "), "error");
  }
}

/** The first four bytes of every WireGuard message. */
function maybeWireguard(payload: Uint8Array): boolean {
  return (
    payload.length >= 4 &&
    payload[0] >= 1 &&
    payload[0] <= 4 &&
    payload[1] === 0 &&
    payload[2] === 0 &&
    payload[3] === 0
  );
}

function looksLikeText(bytes: Uint8Array): boolean {
  return (
    bytes.length > 0 &&
    bytes.every((byte) => (byte >= 0x20 && byte < 0x7f) || byte === 0x0a || byte === 0x0d || byte === 0x09)
  );
}

function formatSide({ address, port }: Side): string {
  return address.length === 4 ? `${formatIp(address)}:${port}` : `[${formatIp(address)}]:${port}`;
}
