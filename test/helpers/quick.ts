// What the system tests of up and down share: two namespaces, the other end in one of them, the file of the interface
// and our command in the other.

import assert from "node:assert";
import type { Lab, Namespace, Output } from "./netlab.ts";
import type { Implementation } from "./peers.ts";
import { bringUp, host, INNER, LINK, newKeys, OUTER, PORT, Side } from "./system.ts";

export interface Site {
  lab: Lab;
  ours: Implementation;
  /** where the commands run */
  here: Namespace;
  /** of the interface */
  name: string;
  /** the other end; it knows our key and our inner addresses */
  other: Side;
  keys: ReturnType<typeof newKeys>;
}

/** Behind every tunnel: an address that only the other end has. */
export const BEYOND = { 4: "203.0.113.5", 6: "2001:db8::5" } as const;

export async function site(lab: Lab, ours: Implementation, theirs: Implementation): Promise<Site> {
  const [here, there] = [lab.namespace("a"), lab.namespace("b")];
  lab.connect([here, LINK.a, `${OUTER.a[4]}/24`, `${OUTER.a[6]}/64`], [
    there,
    LINK.b,
    `${OUTER.b[4]}/24`,
    `${OUTER.b[6]}/64`,
  ]);
  const other = await Side.start(there, "b", theirs);
  const keys = newKeys();
  await other.set(
    `private-key ${other.file(other.keys.privateKey)} listen-port ${PORT.b} peer ${keys.publicKey} ` +
      `allowed-ips ${host(INNER.a[4])},${host(INNER.a[6])}`,
  );
  bringUp(other, "b");
  there.addresses("lo", host(BEYOND[4]), host(BEYOND[6]));
  return { lab, ours, here, name: lab.interfaceName("u"), other, keys };
}

export interface Lines {
  interface?: string;
  allowedIps?: string;
  endpoint?: string;
}

function configText({ keys, other }: Site, lines: Lines): string {
  return [
    "[Interface]",
    `PrivateKey = ${keys.privateKey}`,
    lines.interface ?? `Address = ${INNER.a[4]}/24, ${INNER.a[6]}/64`,
    "[Peer]",
    `PublicKey = ${other.keys.publicKey}`,
    `AllowedIPs = ${lines.allowedIps ?? `${INNER.b[4]}/32, ${INNER.b[6]}/128`}`,
    `Endpoint = ${lines.endpoint ?? `${OUTER.b[4]}:${PORT.b}`}`,
    "",
  ].join("\n");
}

/** The file of the interface. @returns its path */
export function configure(site: Site, lines: Lines = {}): string {
  return site.lab.file(configText(site, lines), `${site.name}.conf`);
}

export function command({ ours, here }: Site, words: string[], env: Record<string, string> = {}): Promise<Output> {
  return here.try([...ours.command, ...words], { env });
}

export async function succeed(site: Site, words: string[], env?: Record<string, string>): Promise<Output> {
  const output = await command(site, words, env);
  assert.equal(output.code, 0, `${words.join(" ")}: ${output.stderr}`);
  return output;
}

export function ping(namespace: Namespace, address: string): Promise<string> {
  return namespace.run(`ping -n -c 1 -i 0.5 -w 9 ${address}`);
}
