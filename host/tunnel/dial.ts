// From a name to a connection that stands: Happy Eyeballs, RFC 8305 §4 and §5. The addresses are tried in turn, the families
// alternating and IPv6 first, each 250 ms after the one before or as soon as that one failed; the first to stand wins and
// the others are reset.

import { WasmguardError } from "../errors.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import type { SocketAddress, TcpApi, TcpConnection } from "../netstack/types.ts";
import { AbortError, onAbort } from "./abort.ts";

/** RFC 8305 §5: Connection Attempt Delay */
const ATTEMPT_DELAY_MS = 250;

export interface DialOptions {
  tcp: TcpApi;
  addresses: readonly IpAddress[];
  port: number;
  local: { address?: IpAddress; port?: number };
  /** for errors: what the caller asked for */
  host: string;
  signal: AbortSignal;
}

/** @throws WasmguardError with the code of the first attempt that failed; AbortError */
export async function dial(options: DialOptions): Promise<TcpConnection> {
  const { addresses, port, host, signal } = options;
  const waiting = alternate(addresses);
  const errors: Error[] = [];
  const race = new AbortController();
  const stop = onAbort(signal, () => race.abort(signal.reason));
  try {
    return await new Promise<TcpConnection>((resolve, reject) => {
      let running = 0;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const finish = (): void => clearTimeout(timer);
      race.signal.addEventListener("abort", () => {
        finish();
        reject(new AbortError(`connect to ${formatTarget(host, port)}`, signal.reason));
      });
      const next = (): void => {
        clearTimeout(timer);
        const address = waiting.shift();
        if (!address) {
          if (running === 0) reject(failure(options, errors));
          return;
        }
        running++;
        open(options.tcp, { ...address, port }, options.local, race.signal).then(
          (connection) => {
            finish();
            if (race.signal.aborted) connection.abort();
            else resolve(connection);
          },
          (error: Error) => {
            running--;
            if (race.signal.aborted) return;
            errors.push(error);
            next();
          },
        );
        if (waiting.length > 0) timer = setTimeout(next, ATTEMPT_DELAY_MS);
      };
      if (race.signal.aborted) reject(new AbortError(`connect to ${formatTarget(host, port)}`, signal.reason));
      else next();
    });
  } finally {
    stop();
    race.abort(); // those that were slower
  }
}

/** One attempt. */
function open(
  tcp: TcpApi,
  remote: SocketAddress,
  local: DialOptions["local"],
  signal: AbortSignal,
): Promise<TcpConnection> {
  return new Promise((resolve, reject) => {
    let connection: TcpConnection;
    try {
      connection = tcp.connect(remote, local);
    } catch (error) {
      reject(error);
      return;
    }
    const stop = onAbort(signal, () => {
      connection.onClosed = null;
      connection.abort();
      reject(new AbortError("connect", signal.reason));
    });
    connection.onConnected = () => {
      stop();
      connection.onConnected = connection.onClosed = null;
      resolve(connection);
    };
    connection.onClosed = (error) => {
      stop();
      reject(error ?? new WasmguardError("ECONNRESET", "The connection was closed before it stood"));
    };
  });
}

/** RFC 8305 §4: families in turn, IPv6 first, each family in the resolver's order. */
function alternate(addresses: readonly IpAddress[]): IpAddress[] {
  const v6 = addresses.filter((address) => address.family === 6);
  const v4 = addresses.filter((address) => address.family === 4);
  const order: IpAddress[] = [];
  for (let i = 0; i < Math.max(v6.length, v4.length); i++) order.push(...v6.slice(i, i + 1), ...v4.slice(i, i + 1));
  return order;
}

function failure({ addresses, host, port }: DialOptions, errors: Error[]): Error {
  const [first] = errors;
  const code = (first as { code?: string }).code ?? "EIO";
  const tried = addresses.length > 1 ? ` (${addresses.map(({ address }) => formatIp(address)).join(", ")})` : "";
  const cause = errors.length > 1 ? new AggregateError(errors) : first;
  const message = `Cannot connect to ${formatTarget(host, port)}${tried}: ${first.message}`;
  return new WasmguardError(code, message, { syscall: "connect", cause });
}

export function formatTarget(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
