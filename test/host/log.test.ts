// The logger: which level prints, and that a line stays one line.

import assert from "node:assert";
import { suite } from "uvu";
import { createLogger, parseLogLevel } from "../../host/log.ts";

const log = suite("log");

/** What a verbose and an error message print at a LOG_LEVEL. */
function print(level: string | undefined, text: string): string[] {
  const lines: string[] = [];
  const logger = createLogger("wg0", parseLogLevel(level), (line) => lines.push(line));
  logger.verbose(`verbose ${text}`);
  logger.error(`error ${text}`);
  return lines;
}

log("LOG_LEVEL decides", () => {
  for (const [level, count] of [
    ["verbose", 2],
    ["debug", 2],
    ["error", 1],
    [undefined, 1],
    ["loud", 1],
    ["silent", 0],
  ] as const) {
    assert.strictEqual(print(level, "x").length, count, level);
  }
});

log("a message is one line, with interface and time", () => {
  const [line] = print("error", "a\nb\x1b[2J\r\x9bc");
  assert.match(line, /^\(wg0\) \d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d error a b \[2J c\n$/);
});

log.run();
