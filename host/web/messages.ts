// A list of messages with the inspector beside it: what the captures and the real peer show.

import type { Dissection } from "../capture/dissector.ts";
import { button, h, replace } from "./dom.ts";
import { Inspector } from "./inspector.ts";

export interface Listed {
  number: number;
  /** for people */
  time: string;
  way: string;
  bytes: Uint8Array;
  dissection: Dissection;
}

/** rows put in at once */
const PAGE = 200;

export class MessageList {
  readonly element: HTMLElement;
  readonly #box: HTMLElement;
  readonly #body = h("tbody", {});
  readonly #more = button("Show more", () => this.#grow());
  readonly #inspector: Inspector;
  readonly #newestFirst: boolean;
  #messages: Listed[] = [];
  #shown = PAGE;
  #chosen: Listed | null = null;

  constructor(emptyText: string, newestFirst = false) {
    this.#newestFirst = newestFirst;
    this.#inspector = new Inspector(emptyText);
    const head = h(
      "thead",
      {},
      h("tr", {}, ...["#", "Time", "Message", "From → to", "Bytes"].map((text) => h("th", { scope: "col" }, text))),
    );
    this.#box = h(
      "div",
      { class: "list card", tabindex: 0, role: "region", "aria-label": "Messages" },
      h("table", {}, head, this.#body),
      this.#more,
    );
    this.element = h("div", { class: "messages" }, this.#box, this.#inspector.element);
    this.show([]);
  }

  show(messages: Listed[]): void {
    this.#messages = messages;
    this.#shown = PAGE;
    if (this.#chosen && !messages.includes(this.#chosen)) this.#chosen = null;
    this.update();
  }

  /** The list has grown. */
  update(): void {
    this.#chosen ??= this.#messages.at(0) ?? null;
    const listed = this.#newestFirst
      ? this.#messages.slice(-this.#shown).reverse()
      : this.#messages.slice(0, this.#shown);
    replace(this.#body, ...listed.map((message) => this.#row(message)));
    this.#box.hidden = listed.length === 0;
    this.#more.hidden = this.#messages.length <= this.#shown;
    this.#inspect();
  }

  #grow(): void {
    this.#shown += PAGE;
    this.update();
  }

  #row(message: Listed): HTMLElement {
    const {
      number,
      time,
      way,
      bytes,
      dissection: { type, notes },
    } = message;
    const choose = (): void => {
      this.#chosen = message;
      this.update();
    };
    const bad = notes.length > 0;
    return h(
      "tr",
      { class: message === this.#chosen ? "chosen" : "", onclick: choose },
      h("td", { class: "mono" }, number),
      h("td", { class: "mono" }, time),
      h(
        "td",
        {},
        button(type === "unknown" ? "not WireGuard" : type, choose, {
          class: "link",
          "data-key": `message${number}`,
          "aria-pressed": String(message === this.#chosen),
        }),
        bad ? h("span", { class: "wrong", title: notes.join("; ") }, " ✗") : null,
      ),
      h("td", { class: "mono" }, way),
      h("td", { class: "mono" }, bytes.length),
    );
  }

  #inspect(): void {
    const message = this.#chosen;
    this.#inspector.show(
      message && {
        title: `Message ${message.number}: ${message.dissection.type}`,
        bytes: message.bytes,
        dissection: message.dissection,
        note: message.way,
      },
    );
  }
}
