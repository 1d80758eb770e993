// What `import "wasmguard"` gives: a tunnel inside a program, the packet level below it, and the parts they are made of.

export { Tunnel, type PeerStats, type PingOptions, type PingReply, type TunnelOptions, type TunnelStats } from "./tunnel/tunnel.ts";
export type {
  ConnectOptions, DatagramOptions, DatagramSender, Dialer, ListenOptions, TunnelDatagram, TunnelServer, TunnelSocket,
} from "./tunnel/types.ts";
export type { SilentReason, TunnelEvents } from "./tunnel/events.ts";
export type { PeerSettings, TunnelConfig, TunnelSettings } from "./tunnel/settings.ts";
export { AbortError } from "./tunnel/abort.ts";
export type { TunnelHttpAgent, TunnelHttpsAgent, UndiciConnector } from "./tunnel/agent.ts";

export { type PortableOptions, PortableDevice, openPortable } from "./portable.ts";
export type { InPacket, Link, OutPacket, StackClock } from "./netstack/types.ts";
export type { Transport, TransportSocket } from "./transport/types.ts";
export { UdpTransport, type UdpTransportOptions } from "./transport/udp.ts";
export { WebSocketTransport, type WebSocketTransportOptions } from "./transport/websocket.ts";
export { PortTransport, type PortLike } from "./transport/port.ts";

export { type CoreBuild, compileCore, pickBuild } from "./core.ts";
export { Device, type DropName } from "./device.ts";
export type { CoreEvent } from "./driver.ts";
export { WasmguardError } from "./errors.ts";
export { type Endpoint, formatEndpoint, parseEndpoint } from "./endpoint.ts";
export { type AllowedIp, type IpAddress, formatIp, formatPrefix, parseIp, parsePrefix } from "./ip.ts";
export { decodeBase64Key, encodeBase64Key, generatePresharedKey, generatePrivateKey } from "./keys.ts";
export { type Config, ConfigError, parseConfig, toDeviceChange, unresolvedHosts } from "./config.ts";
export { type Configurable, createPeerChange, type DeviceChange, type DeviceState, type PeerChange, type PeerState } from "./model.ts";
