// A message under the glass: its bytes as a grid with the fields coloured, lettered and named, one byte's bits, and the
// steps of its handshake. Every panel shows messages with it; where bits may be flipped, it says which.

import { type Dissection, type Field, hex, type Step } from "../capture/dissector.ts";
import { button, type Child, h, replace } from "./dom.ts";

export interface Exhibit {
  /** in a few words: what it is, and where */
  title: string;
  bytes: Uint8Array;
  /** as it was sent, where bits were changed since */
  original?: Uint8Array;
  dissection: Dissection;
  /** absent: to look at only */
  onFlip?: (bit: number) => void;
  /** why it cannot be changed, if it cannot */
  note?: string;
}

/** What each field is for, by message type and name; § are of the whitepaper. */
const MEANINGS: Record<string, string> = {
  type: "Which of the four messages this is.",
  reserved: "Always zero.",
  "initiation.sender":
    "The number by which the initiator wants to be answered: random, it says nothing about who it is.",
  "initiation.ephemeral":
    "A public key made for this handshake alone. It is forgotten afterwards, so that old traffic stays secret.",
  "initiation.static": "Who the initiator is: its static public key, sealed, so that only the responder can read it.",
  "initiation.timestamp": "When it was made, sealed. The responder takes only later ones than the last: no replay.",
  mac1: "A MAC under the receiver's public key: who does not know the key gets no answer at all.",
  mac2: "A MAC under a cookie, asked for only when the receiver is under load.",
  "response.sender": "The number by which the responder wants to be addressed.",
  "response.receiver": "The initiator's number, from its message.",
  "response.ephemeral": "The responder's public key for this handshake alone.",
  "response.nothing": "An empty text, sealed: its tag proves that both sides computed the same keys.",
  "cookie.receiver": "The number of whoever is asked to come again.",
  "cookie.nonce": "Random, for the seal of the cookie.",
  "cookie.cookie": "The cookie, sealed: a MAC of the sender's address under a secret that changes every two minutes.",
  receiver: "The number of the receiver's session.",
  counter: "Counts up by one with each packet; it is the nonce, and shows replays.",
  packet: "An IP packet, sealed, padded to a multiple of 16 bytes.",
  tag: "Proves that nothing was changed on the way.",
};

const ROW_WIDE = 16;
const ROW_NARROW = 8;
/** more is shown on demand: a large datagram has thousands of elements */
const BYTES_SHOWN = 1536;
/** on a phone the grid does not scroll by itself */
const BYTES_SHOWN_NARROW = 256;
const LETTERS = "ABCDEFGHIJ";
const narrow = matchMedia("(max-width: 700px)");

export class Inspector {
  readonly element = h("section", { class: "inspector card", "aria-label": "Message" });
  #exhibit: Exhibit | null = null;
  #emptyText: string;
  /** of the byte whose bits are shown */
  #byte = 0;
  #bitsOpen = false;
  #showAll = false;
  readonly #expanded = new Set<string>();

  constructor(emptyText: string) {
    this.#emptyText = emptyText;
    narrow.addEventListener("change", () => this.#render());
    this.#render();
  }

  show(exhibit: Exhibit | null): void {
    if (exhibit?.title !== this.#exhibit?.title) {
      this.#byte = 0;
      this.#bitsOpen = false;
      this.#showAll = false;
    }
    this.#exhibit = exhibit;
    this.#render();
  }

  #render(): void {
    const exhibit = this.#exhibit;
    if (!exhibit) return replace(this.element, h("p", { class: "muted" }, this.#emptyText));
    const { dissection, bytes, note } = exhibit;
    const { type, notes, steps } = dissection;
    replace(
      this.element,
      h(
        "header",
        {},
        h("h3", {}, exhibit.title),
        h(
          "p",
          { class: "muted" },
          `${type === "unknown" ? "no WireGuard message" : type} · ${bytes.length} bytes${note ? ` · ${note}` : ""}`,
        ),
      ),
      h(
        "div",
        { class: "glass" },
        h("div", { class: "bytes" }, this.#grid(exhibit), this.#bits(exhibit)),
        this.#fields(dissection),
      ),
      notes.length > 0 && h("ul", { class: "notes" }, ...notes.map((text) => h("li", {}, `✗ ${text}`))),
      steps.length > 0 && this.#steps(steps),
    );
  }

  // --- bytes --------------------------------------------------------------------------------------------------------

  #grid({ bytes, original, dissection: { fields } }: Exhibit): HTMLElement {
    const width = narrow.matches ? ROW_NARROW : ROW_WIDE;
    const shown = this.#showAll
      ? bytes.length
      : Math.min(bytes.length, narrow.matches ? BYTES_SHOWN_NARROW : BYTES_SHOWN);
    const owner = ownerOf(fields, bytes.length);
    const rows: Child[] = [];
    for (let start = 0; start < shown; start += width) {
      const cells: Child[] = [h("span", { class: "offset", "aria-hidden": "true" }, start)];
      for (let at = start; at < Math.min(start + width, shown); at++) {
        const index = owner[at];
        const first = index >= 0 && fields[index].offset === at;
        const changed = original !== undefined && original[at] !== bytes[at];
        const name = index >= 0 ? fields[index].name : "no field";
        const hue = index >= 0 && `f${index % LETTERS.length}`;
        const text = bytes[at].toString(16).padStart(2, "0");
        cells.push(
          h(
            "button",
            {
              type: "button",
              role: "gridcell",
              class: ["byte", hue, changed && "changed", this.#bitsOpen && at === this.#byte && "chosen"]
                .filter(Boolean)
                .join(" "),
              "data-key": `byte${at}`,
              "data-at": at,
              "data-field": index,
              tabindex: at === this.#byte ? 0 : -1,
              "data-letter": first ? LETTERS[index % LETTERS.length] : null,
              "aria-label": `byte ${at}, ${name}, ${text}${changed ? ", changed" : ""}`,
            },
            text,
          ),
        );
      }
      rows.push(h("div", { role: "row", class: "row" }, ...cells));
    }
    const grid = h(
      "div",
      {
        role: "grid",
        class: "grid",
        "aria-label": "Bytes of the message; arrow keys move, Enter shows a byte's bits",
        onclick: (event) => this.#choose(event.target),
        onkeydown: (event) => this.#move(event, width, shown),
        onmouseover: (event) => this.#highlight(fieldAt(event.target)),
        onmouseleave: () => this.#highlight(null),
        onfocusin: (event) => this.#highlight(fieldAt(event.target)),
      },
      ...rows,
    );
    if (shown === bytes.length) return grid;
    const more = button(`Show all ${bytes.length} bytes`, () => {
      this.#showAll = true;
      this.#render();
    });
    return h("div", {}, grid, more);
  }

  #choose(target: EventTarget | null): void {
    const at = target instanceof HTMLElement ? target.dataset.at : undefined;
    if (at === undefined) return;
    this.#byte = Number(at);
    this.#bitsOpen = true;
    this.#render();
    this.#focusByte();
  }

  #move(event: KeyboardEvent, width: number, shown: number): void {
    const steps: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const to = this.#byte + step;
    if (to < 0 || to >= shown) return;
    this.#byte = to;
    if (this.#bitsOpen) this.#render();
    else
      for (const cell of this.element.querySelectorAll<HTMLElement>(".byte"))
        cell.tabIndex = Number(cell.dataset.at) === to ? 0 : -1;
    this.#focusByte();
  }

  #focusByte(): void {
    this.element.querySelector<HTMLElement>(`[data-key="byte${this.#byte}"]`)?.focus();
  }

  #bits({ bytes, original, onFlip, dissection: { fields } }: Exhibit): HTMLElement | null {
    if (this.#byte >= bytes.length) this.#byte = 0;
    if (!this.#bitsOpen) {
      if (bytes.length === 0) return null;
      return h(
        "p",
        { class: "muted hint" },
        onFlip ? "Choose a byte to see its bits and flip one." : "Choose a byte to see its bits.",
      );
    }
    const at = this.#byte;
    const value = bytes[at];
    const field = fields[ownerOf(fields, bytes.length)[at]];
    const bits = [7, 6, 5, 4, 3, 2, 1, 0].map((bit) => {
      const on = (value >> bit) & 1;
      const changed = original !== undefined && ((original[at] ^ value) >> bit) & 1;
      const label = `bit ${bit} of byte ${at}: ${on}${changed ? ", flipped" : ""}`;
      return h(
        "button",
        {
          type: "button",
          class: `bit${changed ? " changed" : ""}`,
          disabled: !onFlip,
          "data-key": `bit${bit}`,
          "aria-label": onFlip ? `flip ${label}` : label,
          title: label,
          onclick: () => onFlip?.(at * 8 + bit),
        },
        on,
      );
    });
    return h(
      "div",
      { class: "bits", role: "group", "aria-label": `Bits of byte ${at}` },
      h("span", {}, `byte ${at}${field ? ` · ${field.name}` : ""} · 0x${value.toString(16).padStart(2, "0")} =`),
      h("span", { class: "bitrow" }, ...bits),
      onFlip ? h("span", { class: "muted" }, "click a bit to flip it") : null,
    );
  }

  // --- fields -------------------------------------------------------------------------------------------------------

  #fields({ type, fields }: Dissection): HTMLElement {
    const rows = fields.map((field, i) => {
      const meaning = MEANINGS[`${type}.${field.name}`] ?? MEANINGS[field.name];
      return h(
        "li",
        {
          class: `field f${i % LETTERS.length}`,
          "data-field": i,
          onmouseenter: () => this.#highlight(i),
          onmouseleave: () => this.#highlight(null),
        },
        h("span", { class: "letter", "aria-hidden": "true" }, LETTERS[i % LETTERS.length]),
        h(
          "div",
          {},
          h("p", {}, h("strong", {}, field.name), h("span", { class: "muted" }, ` ${range(field)}`), verdict(field)),
          h("p", { class: "value" }, field.value),
          meaning ? h("p", { class: "muted meaning" }, meaning) : null,
        ),
      );
    });
    return h("ol", { class: "fields", "aria-label": "Fields" }, ...rows);
  }

  #highlight(index: number | null): void {
    for (const element of this.element.querySelectorAll<HTMLElement>("[data-field]")) {
      element.classList.toggle("lit", index !== null && index >= 0 && element.dataset.field === String(index));
    }
  }

  // --- the handshake ------------------------------------------------------------------------------------------------

  #steps(steps: Step[]): HTMLElement {
    const items = steps.map(({ token, what, chainingKey, hash, key }, i) =>
      h(
        "li",
        {},
        h("span", { class: "token" }, token === "" ? "begin" : token),
        h(
          "div",
          {},
          h("p", {}, what),
          h(
            "dl",
            {},
            ...this.#secret(`C${i}`, "C", "chaining key", chainingKey),
            ...this.#secret(`H${i}`, "H", "hash", hash),
            ...(key ? this.#secret(`k${i}`, "k", "key", key) : []),
          ),
        ),
      ),
    );
    return h(
      "details",
      { class: "steps", open: true },
      h("summary", {}, "What both sides compute, token by token"),
      h(
        "p",
        { class: "muted" },
        "C is the chaining key, H the hash of all that was said, k the key that the next field is sealed with. Only who " +
          "knows a private key gets further than the first two.",
      ),
      h("ol", {}, ...items),
    );
  }

  #secret(id: string, name: string, title: string, bytes: Uint8Array): Child[] {
    const open = this.#expanded.has(id);
    const text = hex(bytes);
    const toggle = (): void => {
      if (open) this.#expanded.delete(id);
      else this.#expanded.add(id);
      this.#render();
    };
    const attributes = {
      class: "secret",
      "data-key": `secret${id}`,
      "aria-expanded": String(open),
      title: `${title}: ${open ? "shorten" : "show all"}`,
    };
    return [
      h("dt", { title }, name),
      h("dd", {}, button(open ? text : `${text.slice(0, 8)}…${text.slice(-4)}`, toggle, attributes)),
    ];
  }
}

/** By byte: which field it is of, -1 = none. */
function ownerOf(fields: readonly Field[], length: number): Int16Array {
  const owner = new Int16Array(length).fill(-1);
  fields.forEach(({ offset, length: size }, i) => owner.fill(i, offset, offset + size));
  return owner;
}

function fieldAt(target: EventTarget | null): number | null {
  const index = target instanceof HTMLElement ? target.dataset.field : undefined;
  return index === undefined ? null : Number(index);
}

function range({ offset, length }: Field): string {
  return length === 1 ? `byte ${offset}` : `bytes ${offset} to ${offset + length - 1}`;
}

function verdict({ valid }: Field): Child {
  if (valid === undefined) return null;
  return h("span", { class: valid ? "ok" : "wrong" }, valid ? " ✓ right" : " ✗ wrong");
}
