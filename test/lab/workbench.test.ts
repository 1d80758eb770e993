// The workbench: scenarios show what they say; each field's bit flip gives the refusal it must; what was done is text, and
// back; undo is doing it again.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { Primitives } from "../../host/capture/primitives.ts";
import { prepareBuild } from "../../host/simulator/node.ts";
import { SCENARIOS } from "../../host/simulator/scenarios.ts";
import { type Action, ACTIONS_MAX, buildBench, formatActions, parseActions, Workbench } from "../../host/simulator/workbench.ts";
import { builds } from "../sim/builds.ts";
import { FIELDS } from "../sim/paper.ts";

await prepareBuild("page");
const crypto = await Primitives.open();
const bench = (actions: readonly Action[], build = builds[0]): Workbench => buildBench(crypto, build, 1, actions);

const scenarios = suite("scenarios");

for (const { id, actions, shows } of SCENARIOS) {
  scenarios(id, () => {
    const { history } = bench(actions);
    const seen = history.flatMap(({ refused, events }) => [...refused, ...events]);
    for (const wanted of shows) assert.ok(seen.includes(wanted), `${wanted} is not among ${seen.join(", ")}`);
    // What it is about comes at its end, not on the way.
    const end = history.slice(-3).flatMap(({ refused, events }) => [...refused, ...events]);
    for (const wanted of shows) assert.ok(end.includes(wanted), `${wanted} came early`);
  });
}

scenarios("both at once end in sessions that carry packets both ways", () => {
  const both = bench(SCENARIOS.find(({ id }) => id === "both")!.actions);
  const deliverAll = () => {
    for (let i = 0; both.flight.length > 0; i++) {
      assert.ok(i < 20, "it never ends");
      both.do({ do: "deliver", at: 0 });
    }
  };
  deliverAll();
  for (const who of [0, 1] as const) {
    both.do({ do: "send", who });
    deliverAll();
  }
  const delivered = both.history.flatMap((outcome) => outcome.delivered);
  // The packets that began it were staged, and came with the rest.
  assert.equal(delivered.filter((text) => text.startsWith("a:")).length, 2);
  assert.equal(delivered.filter((text) => text.startsWith("b:")).length, 2);
});

scenarios.run();

const messages = suite("messages on the bench");

// By field of the initiation and response: what a flipped bit in it must be refused as. §5.4.2, §5.4.3, §5.4.4
const REFUSALS = {
  initiation: { type: "bad_type", sender: "bad_mac1", ephemeral: "bad_mac1", static: "bad_mac1", timestamp: "bad_mac1", mac1: "bad_mac1", mac2: null },
  response: { type: "bad_type", sender: "bad_mac1", receiver: "bad_mac1", ephemeral: "bad_mac1", nothing: "bad_mac1", mac1: "bad_mac1", mac2: null },
} as const;

for (const type of ["initiation", "response"] as const) {
  for (const [field, [from, to]] of Object.entries(FIELDS[type])) {
    messages(`a flipped bit in ${field} of the ${type}`, () => {
      const before: Action[] = type === "initiation" ? [{ do: "send", who: 0 }] : [{ do: "send", who: 0 }, { do: "deliver", at: 0 }];
      for (const at of [from, to - 1]) {
        const flipped = bench([...before, { do: "flip", at: 0, bit: at * 8 + 3 }]);
        const outcome = flipped.do({ do: "deliver", at: 0 });
        const wanted = REFUSALS[type][field as keyof (typeof REFUSALS)[typeof type]];
        const side = type === "initiation" ? "b" : "a";
        assert.deepEqual(outcome.refused, wanted ? [`${side}: ${wanted}`] : [], `byte ${at}`);
      }
    });
  }
}

messages("the reader along sees every token and the inner packet", () => {
  const all = bench([{ do: "send", who: 0 }]);
  const initiation = all.dissect(all.flight[0]);
  assert.deepEqual(initiation.steps.map(({ token }) => token), ["", "e", "es", "s", "ss", "{t}"]);
  all.do({ do: "deliver", at: 0 });
  assert.deepEqual(all.dissect(all.flight[0]).notes, []);
  all.do({ do: "deliver", at: 0 });
  const data = all.dissect(all.flight[0]);
  assert.equal(data.type, "data");
  assert.equal(data.inner!.length, 96);
  // What is changed on its way is called wrong, and the reader is not confused by it.
  all.do({ do: "flip", at: 0, bit: 20 * 8 });
  assert.deepEqual(all.dissect(all.flight[0]).notes, ["the tag is wrong: a changed byte, or another key"]);
});

messages.run();

const text = suite("what was done, as text");

text("every action there and back", () => {
  const actions: Action[] = SCENARIOS.flatMap((scenario) => scenario.actions).concat({ do: "keepalive", who: 1, seconds: 25 }, { do: "handshake", who: 1 });
  assert.deepEqual(parseActions(formatActions(actions)), actions);
  assert.deepEqual(parseActions(""), []);
});

text("what cannot be read or done is named", () => {
  for (const bad of ["q0", "s2", "s", "d", "f0", "w5-5", "s0..s1", "d99999999999", "S0", "s0;", "c0", "__proto__"]) {
    assert.throws(() => parseActions(bad), { code: "ERR_ACTION" }, bad);
  }
  assert.throws(() => parseActions("s0.zz"), { message: 'Action 2, "zz", cannot be read' });
  assert.throws(() => parseActions(Array(ACTIONS_MAX + 1).fill("s0").join(".")), { code: "ERR_ACTION" });
  for (const [action, message] of [
    [{ do: "deliver", at: 3 }, /none is number 3/], [{ do: "wait", ms: 0 }, /0 ms is not in/], [{ do: "wait", ms: 1e9 }, /is not in/],
  ] as const) {
    const empty = bench([]);
    assert.throws(() => empty.do(action), { code: "ERR_ACTION", message });
    assert.equal(empty.actions.length, 0);
  }
  assert.throws(() => bench([{ do: "send", who: 0 }, { do: "flip", at: 0, bit: 148 * 8 }]), { message: /^Action 2: Cannot flip: bit 1184/ });
});

text("the same actions give the same trace, on every build", () => {
  const { actions } = SCENARIOS.find(({ id }) => id === "cookie")!;
  const hashes = [...builds, "page" as const].map((build) => bench(actions, build).sim.trace.hex());
  assert.equal(new Set(hashes).size, 1, hashes.join(" "));
});

text.run();
