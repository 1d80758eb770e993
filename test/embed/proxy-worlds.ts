// Where the proxy is tried: over the plain network, and through real tunnels.

import { World } from "./proxy-fixture.ts";

export const worlds: [name: string, open: () => Promise<World>][] = [
  ["plain network", async () => new World()],
  ...(process.env.TMP_TUNNELS ? [["through tunnels", async () => (await import("./proxy-tunnels.ts")).tunnelWorld()] as [string, () => Promise<World>]] : []),
];
