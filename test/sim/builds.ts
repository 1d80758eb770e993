// The builds of the core that this engine runs, compiled for the simulator.

import type { CoreBuild } from "../../host/core.ts";
import { prepareBuild } from "../../host/simulator/node.ts";
import { builds as runnable } from "../helpers/wasm.ts";

export const builds = runnable as CoreBuild[];

const compiler = new URL("../../build/core.mjs", import.meta.url).href;
await ((await import(compiler)) as { buildCore(): Promise<void> }).buildCore();
for (const build of builds) await prepareBuild(build);
