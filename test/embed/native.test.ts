// The embedded device over the kernel's UDP by FFI, received in a thread: what every carrier must do, and what is its own.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { compileCore } from "../../host/core.ts";
import { NativeCarrier } from "../../host/native/carrier.ts";
import { openPortable } from "../../host/portable.ts";
import { cannotRun } from "../helpers/namespace.ts";
import { deviceSuite } from "./device-suite.ts";
import { type Open, openPair, until } from "./pair.ts";

const open: Open = (options) => openPortable({ transport: "native", address: "127.0.0.1", ...options });

/** Why there is no such carrier here, or null. */
async function whyNot(): Promise<string | null> {
  try {
    const carrier = await NativeCarrier.open({ module: await compileCore(), onPacket: () => {}, onFailed: () => {} });
    await carrier.close();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

const reason = await whyNot();

if (reason !== null) {
  cannotRun("the native carrier", reason);
} else {
  deviceSuite("native", open, { burst: Infinity, ordered: true });
}
