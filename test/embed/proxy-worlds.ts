// Where the proxy is tried: over the plain network, and through real tunnels.

import { World } from "./proxy-fixture.ts";
import { tunnelWorld } from "./proxy-tunnels.ts";

export const worlds: [name: string, open: () => Promise<World>][] = [
  ["plain network", async () => new World()],
  ["through tunnels", tunnelWorld],
];
