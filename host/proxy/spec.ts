// What a file or the command line asks of the proxy, as plain data: one spec a service. Two specs with the same
// identity are the same service, so that a reload leaves it alone. Pure.

import type { HostPort } from "../endpoint.ts";
import { quote } from "../errors.ts";
import { type Bind, formatBind, parseBind, parseInnerBind, parseLocalTarget, parseTarget } from "./address.ts";

export interface Login {
  username: string;
  password: string;
}

export type ServiceSpec =
  | { kind: "socks5"; bind: Bind; login?: Login }
  | { kind: "http"; bind: Bind; login?: Login; tls?: { certFile: string; keyFile: string } }
  | { kind: "sni"; bind: Bind }
  | { kind: "forward"; bind: Bind; target: HostPort }
  | { kind: "reverse"; inner: HostPort; target: Bind }
  | { kind: "udp-forward"; bind: HostPort; target: HostPort; idleSec?: number }
  | { kind: "udp-reverse"; inner: HostPort; target: HostPort; idleSec?: number }
  | { kind: "stdio"; target: HostPort };

export type ServiceKind = ServiceSpec["kind"];

/** Equal for equal specs. Holds passwords: never shown. */
export function identity(spec: ServiceSpec): string {
  return JSON.stringify(spec, (_, value) =>
    typeof value === "object" ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value,
  );
}

/** What can be had only once: two specs with the same place cannot run at a time. */
export function place(spec: ServiceSpec): string {
  if (spec.kind === "stdio") return "stdio";
  const udp = spec.kind.startsWith("udp-") ? "udp " : "";
  if ("inner" in spec) return `inner ${udp}${spec.inner.port}`;
  return `${udp}${formatBind(spec.bind)}`;
}

/** "socks5 on 127.0.0.1:1080": for people. */
export function describe(spec: ServiceSpec): string {
  if (spec.kind === "stdio") return `stdio to ${formatBind(spec.target)}`;
  if ("inner" in spec) return `${spec.kind} of ${formatBind(spec.inner)} in the tunnel to ${formatBind(spec.target)}`;
  const to = "target" in spec ? ` to ${formatBind(spec.target)}` : "";
  return `${spec.kind} on ${formatBind(spec.bind)}${to}`;
}

/** The value of an option --socks5, --http, --forward ... @throws RangeError, without anything of a password */
export function parseService(kind: ServiceKind, text: string): ServiceSpec {
  switch (kind) {
    case "socks5":
    case "http": {
      const { login, rest } = takeLogin(text);
      return login ? { kind, bind: parseBind(rest), login } : { kind, bind: parseBind(rest) };
    }
    case "sni":
      return { kind, bind: parseBind(text) };
    case "forward": {
      const [bind, target] = takePair(text, "LOCAL=REMOTE");
      return { kind, bind: parseBind(bind), target: parseTarget(target) };
    }
    case "reverse": {
      const [inner, target] = takePair(text, "REMOTE=LOCAL");
      return { kind, inner: parseInnerBind(inner), target: parseLocalTarget(target) };
    }
    case "udp-forward": {
      const [bind, target] = takePair(text, "LOCAL=REMOTE");
      return { kind, bind: noPath(parseBind(bind)), target: parseTarget(target) };
    }
    case "udp-reverse": {
      const [inner, target] = takePair(text, "REMOTE=LOCAL");
      return { kind, inner: parseInnerBind(inner), target: noPath(parseLocalTarget(target)) };
    }
    case "stdio":
      return { kind, target: parseTarget(text) };
  }
}

/** UDP has no unix sockets here. @throws RangeError */
export function noPath(bind: Bind): HostPort {
  if ("path" in bind) throw new RangeError("a unix socket is for TCP forwards alone");
  return bind;
}

/** RFC 1929 §2: both have 1 to 255 bytes; RFC 7617 §2: no colon in the name. @throws RangeError */
export function checkLogin(login: Login): Login {
  const length = (text: string) => new TextEncoder().encode(text).length;
  if (login.username === "" || length(login.username) > 255 || login.username.includes(":")) {
    throw new RangeError("a user name has 1 to 255 bytes and no colon");
  }
  if (login.password === "" || length(login.password) > 255) throw new RangeError("a password has 1 to 255 bytes");
  return login;
}

/** "USER:PASS@" in front of an address. What stands before the last @ is never quoted. */
function takeLogin(text: string): { login?: Login; rest: string } {
  const at = text.lastIndexOf("@");
  if (at < 0) return { rest: text };
  const colon = text.indexOf(":");
  if (colon < 0 || colon > at) throw new RangeError("what stands before @ is not USER:PASS");
  const login = { username: text.slice(0, colon), password: text.slice(colon + 1, at) };
  return { login: checkLogin(login), rest: text.slice(at + 1) };
}

function takePair(text: string, form: string): [string, string] {
  const equals = text.indexOf("=");
  if (equals < 0) throw new RangeError(`${quote(text)} is not ${form}`);
  return [text.slice(0, equals), text.slice(equals + 1)];
}
