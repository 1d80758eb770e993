// What `import "wasmguard"` gives: a tunnel inside a program, and the parts it is made of.

export { type PortableOptions, PortableDevice, openPortable } from "./portable.ts";
export { type CoreBuild, compileCore, pickBuild } from "./core.ts";
export { Device, type DropName } from "./device.ts";
export type { CoreEvent } from "./driver.ts";
export { WasmguardError } from "./errors.ts";
export { type Endpoint, formatEndpoint, parseEndpoint } from "./endpoint.ts";
export { type AllowedIp, formatPrefix, parsePrefix } from "./ip.ts";
export { decodeBase64Key, encodeBase64Key, generatePresharedKey, generatePrivateKey } from "./keys.ts";
export { parseConfig, toDeviceChange } from "./config.ts";
export { type Configurable, createPeerChange, type DeviceChange, type DeviceState, type PeerChange, type PeerState } from "./model.ts";
