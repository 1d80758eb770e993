// What a client asks of a relay, as both sides write and read it: GET wss://RELAY/udp/HOST:PORT, one binary message a
// datagram. A page cannot set headers on a WebSocket, so the token goes as a second subprotocol, base64url so that any
// text will do; a query was the other way, but queries stand in the logs of every proxy.

/** The one subprotocol a relay agrees to. */
export const RELAY_PROTOCOL = "wasmguard.v1";
/** Offered beside it; never agreed to, so it does not come back. */
const TOKEN_PROTOCOL = "wasmguard.token.";
const ENDPOINT_PATH = "/udp/";

/** @param endpoint  "HOST:PORT", IPv6 in brackets */
export function endpointPath(endpoint: string): string {
  return ENDPOINT_PATH + endpoint;
}

/** "HOST:PORT" of a request's path, whatever a reverse proxy has put before it; null when it asks for no endpoint. */
export function requestedEndpoint(path: string): string | null {
  const at = path.lastIndexOf(ENDPOINT_PATH);
  if (at < 0) return null;
  try {
    // Browsers leave [ and ] alone, other clients may not.
    return decodeURIComponent(path.slice(at + ENDPOINT_PATH.length).replace(/[?#].*$/s, ""));
  } catch {
    return null;
  }
}

export function offeredProtocols(token: string | undefined): string[] {
  return token === undefined ? [RELAY_PROTOCOL] : [RELAY_PROTOCOL, TOKEN_PROTOCOL + base64url(token)];
}

/** What a client offered for a token, still encoded: null when it offered none. */
export function offeredToken(protocols: string | undefined): string | null {
  const offered = (protocols ?? "").split(",").map((protocol) => protocol.trim());
  const found = offered.find((protocol) => protocol.startsWith(TOKEN_PROTOCOL));
  return found === undefined ? null : found.slice(TOKEN_PROTOCOL.length);
}

/** A token as offeredToken returns it. */
export function base64url(text: string): string {
  const bytes = new TextEncoder().encode(text);
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
