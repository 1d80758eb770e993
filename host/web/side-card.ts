// One of the two peers as a card: what it knows, which timers run, what it refused, and what can be done to it.

import { encodeBase64Key } from "../keys.ts";
import type { TimerName } from "../simulator/node.ts";
import { explain } from "../simulator/reasons.ts";
import type { Action, Side, Who } from "../simulator/workbench.ts";
import { button, type Child, h } from "./dom.ts";
import { formatSeconds } from "./words.ts";

const TIMER_TEXT: Record<TimerName, string> = {
  retransmitHandshake: "sends the initiation again",
  sendKeepalive: "answers with a keepalive",
  newHandshake: "takes the peer for dead",
  zeroKeyMaterial: "wipes all keys",
  sendPersistentKeepalive: "persistent keepalive",
};
/** the right end of the timelines, s: keys are wiped after 540 */
const TIMELINE_MAX_S = 900;
const TICKS_S = [1, 10, 60, 540];

export class SideCard {
  readonly #who: Who;
  readonly #do: (action: Action) => void;
  /** whether "Change something" is unfolded */
  #open = false;

  constructor(who: Who, act: (action: Action) => void) {
    this.#who = who;
    this.#do = act;
  }

  render(side: Side): HTMLElement {
    const who = this.#who;
    const act = (text: string, action: Action, title: string) =>
      button(text, () => this.#do(action), {
        title,
        "data-key": `${side.name}-${action.do}${"seconds" in action ? action.seconds : ""}`,
      });
    const drops = Object.entries(side.drops);
    const { previous, current, next } = side.sessions;
    const session = (name: string, there: boolean, title: string): Child =>
      h("li", { class: there ? "there" : "", title }, `${there ? "●" : "○"} ${name}`);
    return h(
      "section",
      { class: `card peer peer-${side.name}`, "aria-label": `Peer ${side.name}` },
      h(
        "header",
        {},
        h("h3", {}, `Peer ${side.name}`),
        h("p", { class: "muted mono" }, `${side.address} · ${encodeBase64Key(side.publicKey).slice(0, 8)}…`),
      ),
      h(
        "div",
        { class: "actions" },
        button("Send a packet", () => this.#do({ do: "send", who }), {
          class: "primary",
          "data-key": `${side.name}-send`,
        }),
        act("Begin handshake", { do: "handshake", who }, "An initiation without a packet"),
      ),
      h(
        "ul",
        { class: "sessions", "aria-label": "Sessions" },
        session("previous", previous, "The session before: packets that are still under way are taken"),
        session("current", current, "The session that packets go out by"),
        session("next", next, "A session that the other side has not confirmed yet"),
      ),
      h(
        "dl",
        { class: "facts" },
        fact("sees the other at", side.endpoint),
        fact("received / sent", `${side.rxBytes} / ${side.txBytes} B`),
        side.staged > 0 ? fact("packets waiting", String(side.staged)) : null,
        side.wallOffsetSeconds !== 0
          ? fact("clock", `${side.wallOffsetSeconds > 0 ? "+" : ""}${side.wallOffsetSeconds} s`)
          : null,
      ),
      timeline(side),
      drops.length > 0
        ? h(
            "div",
            { class: "drops" },
            h("h4", {}, "Refused"),
            h(
              "ul",
              {},
              ...drops.map(([reason, count]) =>
                h(
                  "li",
                  { title: explain(reason) ?? "" },
                  h("span", { class: "wrong" }, "✗ "),
                  h("code", {}, reason),
                  ` × ${count}`,
                ),
              ),
            ),
          )
        : null,
      h(
        "details",
        {
          class: "more",
          open: this.#open,
          ontoggle: (event) => void (this.#open = (event.currentTarget as HTMLDetailsElement).open),
        },
        h("summary", { "data-key": `${side.name}-more` }, "Change something"),
        h(
          "div",
          { class: "actions" },
          act("Move (roam)", { do: "roam", who }, "It gets another address and port"),
          act("Other preshared key", { do: "psk", who }, "On this side alone"),
          act("Other private key", { do: "key", who }, "The other side is not told"),
          act("Clock +1 h", { do: "clock", who, seconds: 3600 }, "Its wall clock is set forward"),
          act("Clock −1 h", { do: "clock", who, seconds: -3600 }, "Its wall clock is set back"),
          act("Keepalive 25 s", { do: "keepalive", who, seconds: 25 }, "PersistentKeepalive"),
          act("Keepalive off", { do: "keepalive", who, seconds: 0 }, "PersistentKeepalive"),
          act("Flood it", { do: "flood", who }, "A thousand initiations of nobody reach it at once: it is under load"),
        ),
      ),
    );
  }
}

function fact(name: string, value: string): HTMLElement {
  return h("div", {}, h("dt", {}, name), h("dd", { class: "mono" }, value));
}

/** Armed timers over a logarithmic axis. */
function timeline({ timers }: Side): HTMLElement {
  const left = (ns: number): number => (Math.log1p(ns / 1e9) / Math.log1p(TIMELINE_MAX_S)) * 100;
  const place = (element: HTMLElement, property: "left" | "width", percent: number): HTMLElement => {
    element.style.setProperty(property, `${Math.min(100, Math.max(0, percent))}%`);
    return element;
  };
  const sorted = [...timers].sort((one, other) => one.left - other.left);
  return h(
    "div",
    { class: "timers" },
    h("h4", {}, "Timers"),
    sorted.length === 0 ? h("p", { class: "muted" }, "None is armed: it waits for packets.") : null,
    h(
      "ul",
      {},
      ...sorted.map(({ name, left: ns }) =>
        h(
          "li",
          {},
          h("span", {}, TIMER_TEXT[name], h("span", { class: "mono" }, ` in ${formatSeconds(ns)}`)),
          h("div", { class: "track", "aria-hidden": "true" }, place(h("div", { class: "run" }), "width", left(ns))),
        ),
      ),
    ),
    sorted.length > 0
      ? h(
          "div",
          { class: "ticks", "aria-hidden": "true" },
          ...TICKS_S.map((s) => place(h("span", {}, s < 60 ? `${s} s` : `${s / 60} min`), "left", left(s * 1e9))),
        )
      : null,
  );
}
