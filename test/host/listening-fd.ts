// Listening unix sockets as bare file descriptors, as a parent process hands one down in WG_UAPI_FD, or leaves one
// behind when it dies. Neither node:net nor Deno makes such, so libc does. Linux.

interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  listen(fd: number, backlog: number): number;
  close(fd: number): number;
}

const AF_UNIX = 1;
const SOCK_STREAM = 1;

export async function openListeningFd(path: string): Promise<number> {
  const libc = await loadLibc();
  const fd = libc.socket(AF_UNIX, SOCK_STREAM, 0);
  const address = new Uint8Array(110); // struct sockaddr_un
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(new TextEncoder().encode(path), 2);
  if (fd < 0 || libc.bind(fd, address, address.length) !== 0 || libc.listen(fd, 8) !== 0) {
    throw new Error(`cannot listen on ${path}`);
  }
  return fd;
}

/** The socket file of a process that is no more. */
export async function leaveDeadSocket(path: string): Promise<void> {
  (await loadLibc()).close(await openListeningFd(path));
}

async function loadLibc(): Promise<Libc> {
  const { Deno } = globalThis as { Deno?: any };
  if (Deno) {
    const symbols = {
      socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
      bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
      listen: { parameters: ["i32", "i32"], result: "i32" },
      close: { parameters: ["i32"], result: "i32" },
    };
    return Deno.dlopen("libc.so.6", symbols).symbols;
  }
  const { default: koffi } = await import("koffi");
  const libc = koffi.load("libc.so.6");
  return {
    socket: libc.func("int socket(int, int, int)"),
    bind: libc.func("int bind(int, void *, uint32_t)"),
    listen: libc.func("int listen(int, int)"),
    close: libc.func("int close(int)"),
  };
}
