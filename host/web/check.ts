// The panel that checks this browser: the vectors of others over the core's crypto, and how fast each build is that
// runs here.

import type { Primitives } from "../capture/primitives.ts";
import type { CoreBuild } from "../core.ts";
import { breath, button, type Child, h, messageOf, Notice, replace, svg } from "./dom.ts";
import { measure, type Speed } from "./speed.ts";
import { runVectors, type VectorResult, type Vectors } from "./vectors.ts";

const BUILDS: [build: CoreBuild, text: string][] = [
  ["page", "SIMD, memory of its own: runs in any page"],
  ["plain", "SIMD, memory shared with workers"],
  ["relaxed", "relaxed SIMD, shared memory"],
];

type Measured = Speed | { build: CoreBuild; refused: string };

export class CheckPanel {
  readonly element: HTMLElement;
  readonly #crypto: Primitives;
  readonly #notice = new Notice();
  readonly #vectors = h("div", { id: "vectors" });
  readonly #speeds = h("div", { id: "speeds" });
  readonly #run = button("Run the vectors", () => void this.#once(() => this.#runVectors()), {
    class: "primary",
    id: "run-vectors",
  });
  readonly #measure = button("Measure", () => void this.#once(() => this.#runBench()), {
    class: "primary",
    id: "run-bench",
  });

  constructor(crypto: Primitives) {
    this.#crypto = crypto;
    this.element = h(
      "div",
      { class: "panel" },
      this.#notice.element,
      h(
        "section",
        { class: "card", "aria-label": "Test vectors" },
        h("h3", {}, "Does it compute what it must?"),
        h("p", { class: "muted" }, "The test vectors of others, over the very code that encrypts, in this browser."),
        h("div", { class: "actions" }, this.#run),
        this.#vectors,
      ),
      h(
        "section",
        { class: "card", "aria-label": "Speed" },
        h("h3", {}, "How fast is it here?"),
        h(
          "p",
          { class: "muted" },
          "One thread, some seconds. A handshake is all X25519 operations of both sides, and everything around them.",
        ),
        h("div", { class: "actions" }, this.#measure),
        this.#speeds,
      ),
    );
  }

  async #once(work: () => Promise<void>): Promise<void> {
    this.#notice.clear();
    this.#run.disabled = this.#measure.disabled = true;
    try {
      await work();
    } catch (error) {
      this.#notice.error(error);
    } finally {
      this.#run.disabled = this.#measure.disabled = false;
    }
  }

  async #runVectors(): Promise<void> {
    const response = await fetch(new URL("vectors.json", document.baseURI));
    if (!response.ok) throw new Error(`Cannot load vectors.json: the server answered with status ${response.status}`);
    const vectors = (await response.json()) as Vectors;
    const results: VectorResult[] = [];
    for (const result of runVectors(this.#crypto, vectors)) {
      results.push(result);
      replace(this.#vectors, vectorTable(results));
      await breath();
    }
    const failed = results.reduce((sum, result) => sum + result.failed.length, 0);
    const passed = results.reduce((sum, result) => sum + result.passed, 0);
    this.#vectors.append(
      h(
        "p",
        { role: "status", class: failed ? "wrong" : "ok", id: "vectors-verdict" },
        failed ? `✗ ${failed} failed, ${passed} passed` : `✓ all ${passed} passed`,
      ),
    );
  }

  async #runBench(): Promise<void> {
    const measured: Measured[] = [];
    for (const [build] of BUILDS) {
      replace(this.#speeds, speedTable(measured), h("p", { class: "muted", role: "status" }, `Measuring ${build} …`));
      await breath();
      try {
        measured.push(await measure(build, breath));
      } catch (error) {
        measured.push({ build, refused: messageOf(error) });
      }
    }
    const speeds = measured.filter((each): each is Speed => !("refused" in each));
    replace(
      this.#speeds,
      speedTable(measured),
      h(
        "div",
        { class: "charts" },
        chart(
          "ChaCha20-Poly1305, MB/s",
          speeds.map(({ build, megabytesPerSecond }) => [build, megabytesPerSecond]),
        ),
        chart(
          "Handshakes/s",
          speeds.map(({ build, handshakesPerSecond }) => [build, handshakesPerSecond]),
        ),
      ),
    );
  }
}

function table(head: string[], rows: Child[][]): HTMLElement {
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, cell))))),
    ),
  );
}

function vectorTable(results: VectorResult[]): HTMLElement {
  return table(
    ["Algorithm", "Vectors of", "Passed", "Failed"],
    results.map(({ name, source, passed, failed }) => [
      name,
      source,
      h("span", { class: "mono" }, passed),
      failed.length > 0
        ? h("span", { class: "wrong" }, `✗ ${failed.length}: ${failed.slice(0, 5).join(", ")}`)
        : h("span", { class: "ok" }, "✓ none"),
    ]),
  );
}

function speedTable(measured: Measured[]): HTMLElement | null {
  if (measured.length === 0) return null;
  return table(
    ["Build", "AEAD", "Handshakes", ""],
    measured.map((each) => {
      const text = BUILDS.find(([build]) => build === each.build)![1];
      if ("refused" in each)
        return [
          each.build,
          h("span", { class: "muted" }, "does not run here"),
          "",
          h("span", { class: "muted" }, each.refused),
        ];
      return [
        each.build,
        h("span", { class: "mono" }, `${Math.round(each.megabytesPerSecond)} MB/s`),
        h("span", { class: "mono" }, `${Math.round(each.handshakesPerSecond)}/s`),
        h("span", { class: "muted" }, text),
      ];
    }),
  );
}

const CHART = { width: 320, row: 28, label: 64, value: 56 } as const;

/** Bars with their names and figures. */
function chart(title: string, bars: [name: string, value: number][]): HTMLElement {
  const most = Math.max(...bars.map(([, value]) => value), 1);
  const room = CHART.width - CHART.label - CHART.value;
  const rows = bars.flatMap(([name, value], i) => {
    const y = i * CHART.row;
    const width = Math.max(1, (value / most) * room);
    return [
      svg("text", { x: 0, y: y + 18, class: "label" }, name),
      svg("rect", { x: CHART.label, y: y + 5, width, height: 18, rx: 3, class: "bar" }),
      svg("text", { x: CHART.label + width + 6, y: y + 18, class: "value" }, String(Math.round(value))),
    ];
  });
  const height = bars.length * CHART.row;
  return h(
    "figure",
    {},
    h("figcaption", {}, title),
    svg(
      "svg",
      {
        viewBox: `0 0 ${CHART.width} ${height}`,
        role: "img",
        "aria-label": `${title}: ${bars.map(([name, value]) => `${name} ${Math.round(value)}`).join(", ")}`,
      },
      ...rows,
    ) as unknown as Node,
  );
}
