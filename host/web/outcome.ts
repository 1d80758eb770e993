// What came of an action, as a list: refusals with their reason, events with their meaning, packets that came out.

import { explain } from "../simulator/reasons.ts";
import type { Outcome } from "../simulator/workbench.ts";
import { h } from "./dom.ts";

/** What came of an action, each refusal with its reason in words. */
export function results({ refused, events, delivered }: Outcome): HTMLElement | null {
  const lines = [
    ...refused.map((text) => line("wrong", "✗", text, "refused it: ")),
    ...events.map((text) => line("", "•", text, "")),
    ...delivered.map((text) =>
      h("li", { class: "ok" }, `✓ ${text.replace(/^(.): (.*)$/, "$1: a packet of $2 came out of the tunnel")}`),
    ),
  ];
  return lines.length > 0 ? h("ul", { class: "results" }, ...lines) : null;
}

function line(kind: string, mark: string, text: string, verb: string): HTMLElement {
  const [, who, what] = /^(.): (.*)$/.exec(text) ?? [null, "", text];
  const why = explain(what);
  return h(
    "li",
    { class: kind },
    `${mark} ${who}${verb ? ` ${verb}` : ": "}`,
    h("code", {}, what),
    why ? h("span", { class: "why" }, ` ${why}`) : null,
  );
}
