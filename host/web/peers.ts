// The panel of two peers that are moved by hand: a workbench (simulator/workbench.ts) on the screen. All there is to it
// is the seed and the list of what was done: both stand in the address bar, back is doing all but the last again, and
// what was taken back waits to be done forward.

import type { Primitives } from "../capture/primitives.ts";
import type { CoreBuild } from "../core.ts";
import { firstDifference, formatBenchTrace, parseBenchTrace, TRACE_MAX_LEN } from "../simulator/bench-trace.ts";
import { describe } from "../simulator/message.ts";
import { SCENARIOS, type Scenario } from "../simulator/scenarios.ts";
import { type Action, type Flying, formatActions, type Outcome, Workbench } from "../simulator/workbench.ts";
import { button, type Child, download, h, messageOf, Notice, replace } from "./dom.ts";
import { Inspector } from "./inspector.ts";
import { results } from "./outcome.ts";
import { SideCard } from "./side-card.ts";
import { arrow, describeAction, formatSeconds, sideOf, START_NS } from "./words.ts";

/** the newest */
const HISTORY_SHOWN = 300;

/** Something that was done, in words. */
interface Entry {
  text: string;
  outcome: Outcome;
}

/** A bench after everything was done, and the message that left the flight last. */
interface Played {
  bench: Workbench;
  entries: Entry[];
  last: { flying: Flying; note: string } | null;
}

/** What takes a message out of the flight. */
const ENDS: Partial<Record<Action["do"], string>> = { deliver: "it was delivered", drop: "it was dropped" };

export class PeersPanel {
  readonly element: HTMLElement;
  readonly #crypto: Primitives;
  readonly #build: CoreBuild;
  readonly #onChange: (hash: string) => void;
  readonly #notice = new Notice();
  readonly #inspector = new Inspector(
    "Nothing is in flight. Let one of the peers send a packet, and look at the message here.",
  );
  readonly #scenarios = h("div", { class: "scenarios", role: "group", "aria-label": "Scenarios" });
  readonly #story = h("p", { class: "story" });
  readonly #stage = h("div", { class: "stage" });
  readonly #news = h("div", { class: "news card", tabindex: -1, role: "status", "aria-live": "polite" });
  readonly #time = h("div", { class: "bar" });
  readonly #history = h("section", { class: "history card", "aria-label": "What was done" });
  readonly #cards = ([0, 1] as const).map((who) => new SideCard(who, (action) => this.#do(action)));
  #bench: Workbench;
  #entries: Entry[] = [];
  /** what was taken back, the next one last */
  #undone: Action[] = [];
  #scenario: Scenario | null = null;
  #shown: Played["last"] = null;

  /** @param onChange  what belongs into the address bar now */
  constructor(crypto: Primitives, build: CoreBuild, onChange: (hash: string) => void) {
    this.#crypto = crypto;
    this.#build = build;
    this.#onChange = onChange;
    this.#bench = new Workbench(crypto, build, 1);
    this.element = h(
      "div",
      { class: "panel" },
      h(
        "div",
        { class: "intro" },
        h(
          "p",
          {},
          "Two real WireGuard devices, and you are the network: nothing arrives unless you deliver it, and time stands " +
            "still unless you let it pass. Start with a scenario, or let a send a packet, then deliver what comes. Flip a " +
            "bit, and read why it is refused.",
        ),
        this.#scenarios,
        this.#story,
      ),
      this.#notice.element,
      this.#time,
      this.#stage,
      this.#news,
      this.#inspector.element,
      this.#history,
    );
    this.#render();
  }

  /** As the link says. @throws WasmguardError ERR_ACTION; nothing has changed then */
  load(seed: number, actions: readonly Action[]): void {
    this.#adopt(this.#perform(seed, actions));
    this.#undone = [];
    this.#scenario = SCENARIOS.find((scenario) => formatActions(scenario.actions) === formatActions(actions)) ?? null;
    this.#notice.clear();
    this.#selectNext(this.#shown?.note);
    this.#render();
  }

  /** What the address bar should say. */
  get hash(): string {
    const { seed, actions } = this.#bench;
    return actions.length === 0 && seed === 1 ? "" : `seed=${seed}&do=${formatActions(actions)}`;
  }

  #perform(seed: number, actions: readonly Action[]): Played {
    const bench = new Workbench(this.#crypto, this.#build, seed);
    let last: Played["last"] = null;
    const entries = actions.map((action, i): Entry => {
      const text = describeAction(bench, action);
      const note = ENDS[action.do];
      if (note !== undefined && "at" in action && bench.flight[action.at])
        last = { flying: bench.flight[action.at], note };
      try {
        return { text, outcome: bench.do(action) };
      } catch (error) {
        throw new Error(`Action ${i + 1}: ${messageOf(error)}`, { cause: error });
      }
    });
    return { bench, entries, last };
  }

  #adopt({ bench, entries, last }: Played): void {
    this.#bench = bench;
    this.#entries = entries;
    this.#shown = last;
  }

  /** One more, by hand. */
  #do(action: Action): void {
    this.#notice.clear();
    if ("at" in action) this.#show(action.at);
    const text = describeAction(this.#bench, action);
    const before = this.#bench.flight.length;
    try {
      this.#entries.push({ text, outcome: this.#bench.do(action) });
    } catch (error) {
      return this.#notice.error(error);
    }
    this.#undone = [];
    this.#follow(action, before);
    this.#render();
    // What was pressed may be gone, as with the last message in flight: the keyboard goes on at what came of it.
    if (document.activeElement === document.body) this.#news.focus({ preventScroll: true });
  }

  /** Which message the glass lies on after an action. */
  #follow(action: Action, before: number): void {
    const { flight } = this.#bench;
    if (ENDS[action.do] !== undefined) this.#selectNext(ENDS[action.do]);
    else if (action.do === "flip") this.#show(action.at);
    else if (flight.length > before) this.#show(before);
    else this.#reshow();
  }

  /** What stands first in flight; or what was shown, with a note on where it is now. */
  #selectNext(note: string | undefined): void {
    if (this.#bench.flight.length > 0) this.#show(0);
    else if (this.#shown && note) this.#shown = { ...this.#shown, note };
    else this.#showLast();
  }

  /** The message that was sent last. */
  #showLast(): void {
    const last = this.#bench.sent.at(-1);
    this.#shown = last ? { flying: this.#past(last.serial), note: "no longer in flight" } : null;
  }

  #past(serial: number): Flying {
    const { bytes } = this.#bench.sent[serial];
    return { from: "", to: "", bytes, original: bytes, flipped: [], sentAt: 0, serial };
  }

  #show(at: number): void {
    const flying = this.#bench.flight[at];
    if (flying) this.#shown = { flying, note: "" };
  }

  #reshow(): void {
    if (this.#shown && !this.#bench.flight.includes(this.#shown.flying))
      this.#shown = { ...this.#shown, note: this.#shown.note || "no longer in flight" };
  }

  #back(count: number): void {
    const { actions, seed } = this.#bench;
    const kept = actions.slice(0, Math.max(0, actions.length - count));
    this.#undone.push(...actions.slice(kept.length).reverse());
    this.#adopt(this.#perform(seed, kept));
    this.#notice.clear();
    this.#selectNext(this.#shown?.note);
    this.#render();
  }

  #forward(): void {
    const action = this.#undone.pop();
    if (!action) return;
    const rest = this.#undone;
    this.#do(action);
    this.#undone = rest;
    this.#render();
  }

  // --- on the screen ------------------------------------------------------------------------------------------------

  #render(): void {
    this.#onChange(this.hash);
    this.#renderScenarios();
    this.#renderTime();
    const [a, b] = this.#bench.sides();
    replace(this.#stage, this.#cards[0].render(a), this.#wire(), this.#cards[1].render(b));
    this.#renderNews();
    this.#renderMessage();
    this.#renderHistory();
  }

  #renderScenarios(): void {
    replace(
      this.#scenarios,
      ...SCENARIOS.map((scenario) =>
        button(scenario.title, () => this.load(1, scenario.actions), {
          class: "chip",
          "data-key": `scenario-${scenario.id}`,
          "data-scenario": scenario.id,
          "aria-pressed": String(this.#scenario === scenario),
          title: scenario.text,
        }),
      ),
    );
    const text =
      this.#scenario &&
      `${this.#scenario.title}: ${this.#scenario.text} ` +
        "Go back to the beginning, and forward step by step, to see how it came to this.";
    this.#story.hidden = !text;
    this.#story.textContent = text ?? "";
  }

  #renderTime(): void {
    const { sim, actions } = this.#bench;
    const next = this.#bench.nextTimer();
    const wait = (ms: number) => () => this.#do({ do: "wait", ms });
    const timer = Number.isFinite(next) ? Math.max(1, Math.ceil(next / 1e6)) : 0;
    replace(
      this.#time,
      h(
        "div",
        { class: "group", role: "group", "aria-label": "Steps" },
        button("« Beginning", () => this.#back(actions.length), {
          disabled: actions.length === 0,
          "data-key": "beginning",
        }),
        button("‹ Back", () => this.#back(1), { disabled: actions.length === 0, "data-key": "back" }),
        button("Forward ›", () => this.#forward(), { disabled: this.#undone.length === 0, "data-key": "forward" }),
        h("span", { class: "muted" }, `${actions.length} of ${actions.length + this.#undone.length}`),
      ),
      h(
        "div",
        { class: "group", role: "group", "aria-label": "Time" },
        h(
          "span",
          { class: "clock", title: "Virtual time since the beginning" },
          `Time ${formatSeconds(sim.now() - START_NS)}`,
        ),
        button(timer ? `Next timer (${formatSeconds(timer * 1e6)})` : "No timer", wait(timer), {
          disabled: timer === 0 || timer > 1_000_000,
          "data-key": "next-timer",
        }),
        button("+1 s", wait(1000), { "data-key": "wait1" }),
        button("+10 s", wait(10_000), { "data-key": "wait10" }),
        button("+2 min", wait(120_000), { "data-key": "wait120" }),
      ),
      h(
        "div",
        { class: "group", role: "group", "aria-label": "Keep" },
        button("Copy link", () => void this.#copyLink(), { "data-key": "copy" }),
        button(
          "Save trace",
          () => download(`wasmguard-lab-${sim.trace.hex().slice(0, 8)}.trace`, formatBenchTrace(this.#bench)),
          { "data-key": "save" },
        ),
        this.#loader(),
        button("Reset", () => this.load(1, []), { "data-key": "reset" }),
      ),
    );
  }

  #loader(): HTMLElement {
    const input = h("input", {
      type: "file",
      class: "visually-hidden",
      id: "load-trace",
      "data-key": "load",
      onchange: () => void this.#loadFile(input),
    });
    return h("span", {}, input, h("label", { for: "load-trace", class: "button" }, "Load trace"));
  }

  async #loadFile(input: HTMLInputElement): Promise<void> {
    const [file] = input.files ?? [];
    input.value = "";
    if (!file) return;
    try {
      if (file.size > TRACE_MAX_LEN)
        throw new RangeError(`Trace: ${file.size} bytes, and ${TRACE_MAX_LEN} are the most`);
      const { seed, actions, lines } = parseBenchTrace(await file.text());
      this.load(seed, actions);
      const { trace } = this.#bench.sim;
      const at = firstDifference(lines, trace.lines!);
      if (at === null)
        this.#notice.show(`${file.name}: the same happened again, ${lines.length} events, ${trace.hex()}`);
      else
        this.#notice.show(
          `${file.name} differs at event ${at + 1}: it has "${lines[at] ?? "(the end)"}", ` +
            `and here it is "${trace.lines![at] ?? "(the end)"}"`,
          "error",
        );
    } catch (error) {
      this.#notice.error(error);
    }
  }

  async #copyLink(): Promise<void> {
    try {
      await navigator.clipboard.writeText(location.href);
      this.#notice.show("The link is in the clipboard: whoever opens it sees exactly this.");
    } catch {
      this.#notice.show("The browser does not give the clipboard away: copy the address bar.");
    }
  }

  #wire(): HTMLElement {
    const { flight } = this.#bench;
    const cards = flight.map((flying, at) => {
      const from = sideOf(this.#bench, flying.from);
      const chosen = this.#shown?.flying === flying;
      const name = `${describe(flying.bytes)} ${arrow(from)}`;
      const direction = from === 0 ? "to-right" : "to-left";
      return h(
        "li",
        { class: `flying ${direction}${chosen ? " chosen" : ""}` },
        button(
          h(
            "span",
            {},
            h("strong", {}, describe(flying.bytes)),
            h("span", { class: "muted" }, ` ${flying.bytes.length} B${flips(flying.flipped.length)}`),
            h("span", { class: "way" }, arrow(from)),
          ),
          () => {
            this.#show(at);
            this.#render();
          },
          { class: "name", "data-key": `show${at}`, "aria-pressed": String(chosen), "aria-label": `look at ${name}` },
        ),
        h(
          "div",
          { class: "actions" },
          button("Deliver", () => this.#do({ do: "deliver", at }), {
            class: "primary",
            "data-key": `deliver${at}`,
            "aria-label": `deliver ${name}`,
          }),
          button("Drop", () => this.#do({ do: "drop", at }), { "data-key": `drop${at}`, "aria-label": `drop ${name}` }),
          button("Repeat", () => this.#do({ do: "repeat", at }), {
            "data-key": `repeat${at}`,
            title: "A copy joins the flight",
            "aria-label": `repeat ${name}`,
          }),
        ),
      );
    });
    return h(
      "section",
      { class: "wire", "aria-label": "In flight" },
      h("h3", {}, "In flight"),
      cards.length > 0 ? h("ol", {}, ...cards) : h("p", { class: "muted empty" }, "Nothing is under way."),
    );
  }

  #renderNews(): void {
    const entry = this.#entries.at(-1);
    if (!entry) return replace(this.#news, h("p", { class: "muted" }, "Nothing happened yet."));
    replace(this.#news, h("p", { class: "did" }, entry.text), results(entry.outcome));
  }

  #renderMessage(): void {
    if (!this.#shown) return this.#inspector.show(null);
    const { flying, note } = this.#shown;
    const at = this.#bench.flight.indexOf(flying);
    const way = flying.from === "" ? "" : ` ${arrow(sideOf(this.#bench, flying.from))}`;
    this.#inspector.show({
      title: `Message ${flying.serial + 1}: ${describe(flying.bytes)}${way}`,
      bytes: flying.bytes,
      original: flying.original,
      dissection: this.#bench.dissect(flying),
      note: at < 0 ? note : "in flight",
      onFlip: at < 0 ? undefined : (bit) => this.#do({ do: "flip", at, bit }),
    });
  }

  #renderHistory(): void {
    const { trace } = this.#bench.sim;
    let serial = 0;
    const items = this.#entries
      .map(({ text, outcome }) => {
        const sent = outcome.sent.map((what) => {
          const number = serial++;
          return button(
            `message ${number + 1}: ${what}`,
            () => {
              this.#shown = { flying: this.#past(number), note: "as it was sent" };
              this.#render();
              this.#inspector.element.scrollIntoView({ block: "nearest" });
            },
            { class: "link", "data-key": `sent${number}` },
          );
        });
        return h(
          "li",
          {},
          h("span", { class: "muted mono" }, formatSeconds(outcome.time - START_NS)),
          h(
            "div",
            {},
            h("p", { class: "did" }, text),
            results(outcome),
            sent.length > 0
              ? h("p", {}, "→ sent ", ...sent.flatMap((each, i) => (i > 0 ? [", ", each] : [each])))
              : null,
          ),
        );
      })
      .slice(-HISTORY_SHOWN)
      .reverse();
    replace(
      this.#history,
      h(
        "header",
        {},
        h("h3", {}, "What was done"),
        h(
          "p",
          { class: "muted mono", id: "trace-hash", "data-hash": trace.hex() },
          `trace: ${trace.count} events, ${trace.hex()}`,
        ),
      ),
      items.length > 0
        ? h("ol", {}, ...items)
        : h("p", { class: "muted" }, "Nothing yet. The newest will stand first."),
    );
  }
}

function flips(count: number): string {
  return count === 0 ? "" : ` · ${count} ${count === 1 ? "bit" : "bits"} flipped`;
}
