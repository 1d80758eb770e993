// From a spec to the service that runs it.

import { Forward, Reverse } from "./forward.ts";
import { HttpProxy } from "./http.ts";
import { SniDoor } from "./sni.ts";
import { Socks5 } from "./socks5.ts";
import type { ServiceSpec } from "./spec.ts";
import { type StandardStreams, StdioTunnel } from "./stdio.ts";
import type { Service, ServiceContext } from "./types.ts";
import { UdpForward, UdpReverse } from "./udp-forward.ts";

/** Rejects with an error that names the address. */
export function startService(
  spec: ServiceSpec,
  context: ServiceContext,
  streams: () => StandardStreams,
): Promise<Service> {
  switch (spec.kind) {
    case "socks5":
      return Socks5.start(spec, context);
    case "http":
      return HttpProxy.start(spec, context);
    case "sni":
      return SniDoor.start(spec, context);
    case "forward":
      return Forward.start(spec, context);
    case "reverse":
      return Reverse.start(spec, context);
    case "udp-forward":
      return UdpForward.start(spec, context);
    case "udp-reverse":
      return UdpReverse.start(spec, context);
    case "stdio":
      return StdioTunnel.start(spec, context, streams());
  }
}
