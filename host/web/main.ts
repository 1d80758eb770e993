// The lab in a page: four panels as tabs, and the address bar. The part after # is ours: "seed=1&do=s0.d0" is a
// workbench, "tab=decode" a panel. Nothing of the other panels ever stands there.

import { Primitives } from "../capture/primitives.ts";
import { checkSeed } from "../simulator/bench-trace.ts";
import { prepareBuild } from "../simulator/node.ts";
import { parseActions } from "../simulator/workbench.ts";
import { CheckPanel } from "./check.ts";
import { DecodePanel } from "./decode.ts";
import { h, messageOf, Notice } from "./dom.ts";
import { PeersPanel } from "./peers.ts";
import { pageBuild, RealPanel } from "./real.ts";

interface Tab {
  id: string;
  title: string;
  panel: { element: HTMLElement };
  button?: HTMLButtonElement;
  box?: HTMLElement;
}

async function start(root: HTMLElement): Promise<void> {
  const build = pageBuild();
  await prepareBuild(build);
  const crypto = await Primitives.open();
  const notice = new Notice();
  let current = "";
  const peers = new PeersPanel(crypto, build, (hash) => {
    if (current === "peers") setHash(hash);
  });
  const tabs: Tab[] = [
    { id: "peers", title: "Two peers", panel: peers },
    { id: "real", title: "A real peer", panel: new RealPanel(crypto) },
    { id: "decode", title: "Decode", panel: new DecodePanel(crypto) },
    { id: "check", title: "Check this browser", panel: new CheckPanel(crypto) },
  ];

  const choose = (id: string, focus = false): void => {
    current = id;
    for (const tab of tabs) {
      const chosen = tab.id === id;
      tab.button!.setAttribute("aria-selected", String(chosen));
      tab.button!.tabIndex = chosen ? 0 : -1;
      tab.box!.hidden = !chosen;
      if (chosen && focus) tab.button!.focus();
    }
    setHash(id === "peers" ? peers.hash : `tab=${id}`);
  };

  const list = h(
    "div",
    {
      role: "tablist",
      "aria-label": "Panels",
      class: "tabs",
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step === undefined) return;
        const at = tabs.findIndex(({ id }) => id === current);
        choose(tabs[(at + step + tabs.length) % tabs.length].id, true);
      },
    },
    ...tabs.map(
      (tab) =>
        (tab.button = h(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${tab.id}`,
            "aria-controls": `panel-${tab.id}`,
            onclick: () => choose(tab.id),
          },
          tab.title,
        )),
    ),
  );
  const boxes = tabs.map(
    (tab) =>
      (tab.box = h(
        "div",
        { role: "tabpanel", id: `panel-${tab.id}`, "aria-labelledby": `tab-${tab.id}` },
        tab.panel.element,
      )),
  );
  const isolation = globalThis.crossOriginIsolated ? "cross-origin isolated" : "not cross-origin isolated";
  root.replaceChildren(
    list,
    notice.element,
    ...boxes,
    h(
      "footer",
      { class: "muted" },
      `core-${build}.wasm, ${isolation}. ` +
        "Nothing you enter leaves this page but what a tunnel sends, encrypted, to the relay you name.",
    ),
  );

  const follow = (): void => {
    notice.clear();
    const wanted = new URLSearchParams(location.hash.slice(1));
    const done = wanted.get("do");
    const tab = tabs.find(({ id }) => id === wanted.get("tab"))?.id ?? "peers";
    try {
      if (done !== null || wanted.has("seed")) {
        current = "";
        peers.load(checkSeed(Number(wanted.get("seed") ?? 1)), parseActions(done ?? ""));
      }
    } catch (error) {
      notice.show(`This link cannot be opened. ${messageOf(error)}`, "error");
    }
    choose(tab);
  };
  addEventListener("hashchange", follow);
  follow();
}

function setHash(hash: string): void {
  const url = new URL(location.href);
  url.hash = hash;
  if (url.href !== location.href) history.replaceState(null, "", hash ? url : url.href.replace(/#$/, ""));
}

const root = document.getElementById("lab")!;
start(root).catch((error: unknown) => {
  root.replaceChildren(h("p", { class: "notice error", role: "alert" }, `The lab cannot start: ${messageOf(error)}`));
});
