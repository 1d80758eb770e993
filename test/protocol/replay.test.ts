// The replay window, to RFC 6479 and the kernel's numbers: a table of sequences, and random counters against a set.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { THREADS_BASE, THREAD_NOISE } from "../../assembly/abi.ts";
import { openTables, seeded, type Opened } from "../helpers/tables.ts";
import { builds } from "../helpers/wasm.ts";

// Declared again here, to the specification and not to the code.
const WINDOW = 8128;
const REJECT = 2n ** 64n - 1n - 8128n - 1n;
const STATE = THREADS_BASE + THREAD_NOISE;
const STATE_SIZE = 8 + 8192 / 8;

const bytesOf = ({ u8 }: Opened) => u8.slice(STATE, STATE + STATE_SIZE);

// Check, then mark if it was allowed; a check and a refusal leave every byte as it was.
function accept(tables: Opened, counter: number | bigint): boolean {
  const { replayCheck, replayUpdate } = tables.exports;
  const before = bytesOf(tables);
  const allowed = replayCheck(STATE, BigInt(counter)) !== 0;
  assert.deepEqual(bytesOf(tables), before, `the check of ${counter} changed the state`);
  if (allowed) replayUpdate(STATE, BigInt(counter));
  return allowed;
}

// [counters, expected] in turn; a sequence starts with a new session.
type Step = [counter: number | bigint, accepted: boolean];
const range = (from: number, to: number, accepted = true): Step[] =>
  Array.from({ length: Math.abs(to - from) + 1 }, (_, i) => [from < to ? from + i : from - i, accepted]);

const N = WINDOW + 1;
const sequences: Record<string, Step[]> = {
  "in order": range(0, 3 * 8192),
  "repeated": [[0, true], [0, false], [1, true], [1, false], [1, false], [0, false]],
  "out of order": [[9, true], [8, true], [7, true], [7, false], [0, true], [9, false], [8, false]],
  "around the window": [
    [0, true], [1, true], [9, true], [8, true], [7, true], [N, true], [N - 1, true], [N - 1, false], [N - 2, true],
    [2, true], [2, false], [N + 16, true], [3, false], [N + 16, false],
    [N * 4, true], [N * 4 - (N - 1), true], [10, false], [N * 4 - N, false], [N * 4 - (N + 1), false],
    [N * 4 - (N - 2), true], [N * 4 + 1 - N, false], [0, false],
  ],
  "back by exactly the window": [[WINDOW, true], [0, true], [0, false]],
  "back by one more": [[WINDOW + 1, true], [0, false], [1, true]],
  "all of the window, then its first": [...range(1, WINDOW), [0, true], [0, false]],
  "one past the window": [...range(2, WINDOW + 1), [1, true], [0, false]],
  "downwards": [...range(WINDOW, 0), ...range(WINDOW, 0, false)],
  "downwards, one too far": [...range(WINDOW + 1, 1), [0, false]],
  "downwards, then up by one": [...range(WINDOW, 1), [WINDOW + 1, true], [0, false]],
  "downwards to zero, then up by one": [...range(WINDOW, 0), [WINDOW + 1, true], ...range(0, WINDOW + 1, false)],
  "a jump that empties the whole bitmap": [
    ...range(0, 8191), [5 * 8192, true], ...range(5 * 8192 - WINDOW, 5 * 8192 - 1),
  ],
  "a jump of the bitmap less one word": [...range(0, 8191), [16383 - 64, true], ...range(16319 - WINDOW, 8191, false)],
  "REJECT_AFTER_MESSAGES": [
    [REJECT, false], [REJECT - 1n, true], [REJECT, false], [REJECT - 1n, false], [REJECT - 2n, true],
    [REJECT + 1n, false], [REJECT + 2n, false], [REJECT - 2n, false], [REJECT - 3n, true],
    [REJECT - 1n - BigInt(WINDOW), true], [REJECT - 2n - BigInt(WINDOW), false], [0, false], [2n ** 64n - 1n, false],
  ],
};

for (const build of builds) {
  const test = suite(`replay (${build})`);
  const tables = openTables(build);

  for (const [name, steps] of Object.entries(sequences)) {
    test(name, () => {
      tables.exports.replayReset(STATE);
      steps.forEach(([counter, accepted], i) =>
        assert.equal(accept(tables, counter), accepted, `step ${i}: ${counter}`),
      );
    });
  }

  for (const seed of [1, 2, 3]) {
    test(`random counters against a set, seed ${seed}`, () => {
      const random = seeded(seed);
      const seen = new Set<number>();
      let greatest = -1;
      tables.exports.replayReset(STATE);
      for (let i = 0; i < 40_000; i++) {
        // Mostly near the newest and the window's edge, now and then far ahead or anywhere.
        const kind = random(20);
        let counter = greatest + 1 + random(3);
        if (kind < 6) counter = greatest - random(200);
        else if (kind < 10) counter = greatest - WINDOW - 70 + random(140);
        else if (kind < 13) counter = greatest - random(WINDOW + 100);
        else if (kind === 13) counter = greatest + random(9000);
        else if (kind === 14) counter = random(greatest + 2);
        if (counter < 0) continue;
        const expected = !seen.has(counter) && counter >= greatest - WINDOW;
        assert.equal(accept(tables, counter), expected, `${counter} with greatest ${greatest}, step ${i}`);
        if (!expected) continue;
        seen.add(counter);
        greatest = Math.max(greatest, counter);
      }
      assert.ok(greatest > 10 * WINDOW, `the greatest was only ${greatest}`);
    });
  }

  test("a reset makes a new session and touches nothing behind it", () => {
    tables.u8.fill(0xa5, STATE, STATE + STATE_SIZE + 8);
    tables.exports.replayReset(STATE);
    assert.deepEqual(bytesOf(tables), new Uint8Array(STATE_SIZE));
    for (const counter of [0, 5, 63, 64, 8191, 100_000]) assert.equal(accept(tables, counter), true);
    assert.deepEqual([...tables.u8.slice(STATE + STATE_SIZE, STATE + STATE_SIZE + 8)], new Array(8).fill(0xa5));
  });

  test.run();
}
