// One line a message to stderr, as wireguard-go's users know it: LOG_LEVEL is verbose (or debug), error or silent.
// The library itself never logs unless it is handed a logger.

export type LogLevel = "verbose" | "error" | "silent";

export interface Logger {
  verbose(text: string): void;
  error(text: string): void;
}

export const silentLogger: Logger = { verbose() {}, error() {} };

/** The level of a LOG_LEVEL variable; "error" when it is unset or unknown, as wireguard-go does. */
export function parseLogLevel(value: string | undefined): LogLevel {
  if (value === "verbose" || value === "debug") return "verbose";
  return value === "silent" ? "silent" : "error";
}

/** @param write  takes one whole line, with its end */
export function createLogger(
  name: string,
  level: LogLevel,
  write: (line: string) => void = (line) => void process.stderr.write(line),
): Logger {
  const log = (text: string) => write(`(${name}) ${timestamp(new Date())} ${oneLine(text)}\n`);
  return {
    verbose: level === "verbose" ? log : () => {},
    error: level === "silent" ? () => {} : log,
  };
}

/** Local time, "2026/11/03 12:00:00". */
function timestamp(date: Date): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("/");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

/** Nothing that came from outside can forge a second line or drive the terminal. */
function oneLine(text: string): string {
  return text.replace(/[\x00-\x1f\x7f-\x9f]+/g, " ");
}
