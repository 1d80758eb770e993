// Whether any peer would take a packet to an address: the union of all AllowedIPs, as the device has them. The core
// drops what has no peer, and a kernel's interface says so at once; a program must not wait for a time-out to find out.
//
// Whose prefix it is, is the core's business (the longest one's); here only whether there is one. So the prefixes are
// sets by length, and a look is one step for each length that occurs, however many peers there are.

import type { AllowedIp, IpAddress } from "../ip.ts";
import { mask } from "../ip.ts";

export class Routes {
  /** masked addresses as text of a character a byte, by family and length */
  readonly #networks = new Map<string, { family: number; cidr: number; keys: Set<string> }>();

  constructor(prefixes: Iterable<AllowedIp>) {
    for (const { family, address, cidr } of prefixes) {
      const name = `${family}/${cidr}`;
      let networks = this.#networks.get(name);
      if (!networks) this.#networks.set(name, (networks = { family, cidr, keys: new Set() }));
      networks.keys.add(keyOf(address, cidr));
    }
  }

  has({ family, address }: IpAddress): boolean {
    for (const networks of this.#networks.values()) {
      if (networks.family !== family) continue;
      if (networks.cidr === 0 || networks.keys.has(keyOf(address, networks.cidr))) return true;
    }
    return false;
  }
}

function keyOf(address: Uint8Array, cidr: number): string {
  const network = address.slice();
  mask(network, cidr);
  return String.fromCharCode(...network);
}
