// The replay window as a datagram meets it: the kernel's counter table (selftest/counter.c), message by message through
// a whole receive. The window alone is under test in replay.test.ts.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { builds } from "../sim/builds.ts";
import { hold, openSession, openStranger, type Stranger } from "../sim/pair.ts";
import { REJECT_AFTER_MESSAGES, REPLAY_WINDOW, SECOND } from "../sim/paper.ts";
import { type Keys, sealData } from "../sim/reference.ts";

const NOTHING = new Uint8Array(0);
const WINDOW = BigInt(REPLAY_WINDOW);

for (const build of builds) {
  const test = suite(`replay of data (${build})`);

  /** Tells keepalives by their counters; @returns what became of each: "ok" or the reason. */
  const open = (): { tell: (counter: bigint) => string; stranger: Stranger; keys: Keys } => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const tell = (counter: bigint): string => {
      const before = a.drops();
      const { rxPackets } = a.info(stranger.peer);
      stranger.tell(sealData(keys, counter, NOTHING));
      const reason = Object.entries(a.drops()).find(([name, count]) => count !== (before[name] ?? 0));
      assert.equal(a.info(stranger.peer).rxPackets, reason ? rxPackets : rxPackets + 1);
      return reason ? reason[0] : "ok";
    };
    return { tell, stranger, keys };
  };

  const table = (name: string, steps: [counter: bigint, expected: string][]): void => {
    test(name, () => {
      const { tell } = open();
      for (const [counter, expected] of steps) assert.equal(tell(counter), expected, `counter ${counter}`);
    });
  };

  // 1: nothing yet. 2..10: the table's short moves.
  table("in order, repeated, back and forth", [
    [0n, "ok"], [1n, "ok"], [1n, "replayed"], [9n, "ok"], [8n, "ok"], [7n, "ok"], [7n, "replayed"], [2n, "ok"],
    [9n, "replayed"], [0n, "replayed"], [3n, "ok"],
  ]);
  table("to the window's far edge and one behind it", [
    [WINDOW, "ok"], [0n, "ok"], [WINDOW + 1n, "ok"], [0n, "replayed"], [1n, "ok"], [1n, "replayed"],
    [WINDOW * 2n + 10n, "ok"], [WINDOW + 10n, "ok"], [WINDOW + 9n, "replayed"], [WINDOW + 11n, "ok"],
  ]);
  table("back by exactly the window, and by one more", [
    [100_000n, "ok"], [100_000n - WINDOW, "ok"], [100_000n - WINDOW - 1n, "replayed"], [100_000n - WINDOW, "replayed"],
    [100_001n, "ok"], [100_001n - WINDOW, "ok"], [100_001n - WINDOW - 1n, "replayed"],
  ]);
  table("jumps of words, of the bitmap and of everything", [
    [63n, "ok"], [64n, "ok"], [65n, "ok"], [62n, "ok"], [8191n, "ok"], [8192n, "ok"], [64n, "replayed"],
    [65n, "replayed"], [8190n, "ok"],
    [1n << 40n, "ok"], [(1n << 40n) - 1n, "ok"], [8193n, "replayed"], [(1n << 40n) - WINDOW, "ok"],
  ]);
  table("the edge of REJECT_AFTER_MESSAGES", [
    [REJECT_AFTER_MESSAGES - 2n, "ok"], [REJECT_AFTER_MESSAGES, "session_expired"], [REJECT_AFTER_MESSAGES - 1n, "ok"],
    [REJECT_AFTER_MESSAGES - 1n, "replayed"], [REJECT_AFTER_MESSAGES, "session_expired"],
    [REJECT_AFTER_MESSAGES + 1n, "session_expired"], [2n ** 64n - 1n, "session_expired"],
    [REJECT_AFTER_MESSAGES - 1n - WINDOW, "ok"], [REJECT_AFTER_MESSAGES - 2n - WINDOW, "replayed"], [0n, "replayed"],
  ]);

  test("a forged counter does not move the window", () => {
    const { tell, stranger, keys } = open();
    assert.equal(tell(5n), "ok");
    const forged = sealData(keys, 6n, NOTHING);
    new DataView(forged.buffer).setBigUint64(8, 1n << 50n, true);
    stranger.tell(forged);
    assert.equal(stranger.node.drops("bad_tag"), 1);
    assert.equal(tell(4n), "ok");
    assert.equal(tell(6n), "ok");
  });

  test("each session has a window of its own, and a new one begins empty", () => {
    const { sim, a, stranger } = openStranger(build);
    const first = stranger.initiate();
    for (const counter of [0n, 1n, 20_000n]) stranger.tell(sealData(first, counter, NOTHING));
    sim.run(SECOND);
    const second = stranger.initiate();
    for (const counter of [0n, 1n]) stranger.tell(sealData(second, counter, NOTHING));
    stranger.tell(sealData(first, 19_999n, NOTHING));
    assert.deepEqual(a.drops(), {});
    stranger.tell(sealData(first, 1n, NOTHING));
    stranger.tell(sealData(second, 1n, NOTHING));
    assert.deepEqual(a.drops(), { replayed: 2 });
  });

  test("every datagram of a session told again, in any order: each is delivered once", () => {
    const { sim, a, b, data } = openSession(build);
    const held = hold(sim);
    for (let i = 0; i < 300; i++) data(a);
    const stream = sim.stream("shuffle");
    const twice = [...held, ...held, ...held];
    for (let i = twice.length - 1; i > 0; i--) {
      const j = stream.below(i + 1);
      [twice[i], twice[j]] = [twice[j], twice[i]];
    }
    for (const datagram of twice) b.receive(datagram);
    assert.equal(b.delivered!.length, 300);
    assert.equal(new Set(b.delivered!.map((it) => it.packet.join())).size, 256, "contents repeat after 256");
    assert.deepEqual(b.drops(), { replayed: 600 });
  });

  test.run();
}
