// The peer's UAPI socket, as text: what `wg` sends and what no `wg` would. https://www.wireguard.com/xplatform/

import { connect } from "node:net";
import { must } from "./check.ts";

/** How long a reply may take, ms; a silence as long is taken for the end of it. */
const REPLY_MS = 3000;

export class Uapi {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** Sends one request on a connection of its own. @returns its reply; less when the connection ends or stands still */
  async exchange(request: string): Promise<string> {
    return (await this.converse([request]))[0];
  }

  /** Sends requests on one connection, each after the reply to the one before. @returns the replies */
  converse(requests: string[]): Promise<string[]> {
    return new Promise((resolve, reject) => {
      const replies: string[] = [];
      let reply = "";
      const socket = connect(this.path, () => socket.write(requests[0]));
      socket.setEncoding("latin1");
      socket.setTimeout(REPLY_MS, () => socket.destroy());
      // A peer may close on us for what we sent: then there is no reply.
      socket.on("error", (error) => (socket.connecting ? reject(error) : socket.destroy()));
      socket.on("close", () => resolve(replies.length < requests.length ? [...replies, reply] : replies));
      socket.on("data", (part: string) => {
        reply += part;
        if (!reply.endsWith("\n\n")) return;
        replies.push(reply);
        reply = "";
        if (replies.length === requests.length) socket.destroy();
        else socket.write(requests[replies.length]);
      });
    });
  }

  /** A set. @returns its errno; NaN when the connection ended without one */
  async errno(lines: string[]): Promise<number> {
    const reply = await this.exchange(`set=1\n${lines.join("\n")}\n\n`);
    return Number(/^errno=(-?\d+)\n\n$/.exec(reply)?.[1] ?? NaN);
  }

  /** A set that has to succeed. @throws Deviation */
  async set(...lines: string[]): Promise<void> {
    const errno = await this.errno(lines);
    must(errno === 0, `set ${lines.map((line) => line.split("=")[0]).join(", ")}: errno=${errno}`);
  }

  /** The lines of a get. @throws Deviation when it fails */
  async get(): Promise<string[]> {
    const reply = await this.exchange("get=1\n\n");
    must(reply.endsWith("errno=0\n\n"), `get ends with ${JSON.stringify(reply.slice(-20))}`);
    return reply.slice(0, -"errno=0\n\n".length).split("\n").slice(0, -1);
  }

  /** The lines of one peer, without its public_key; null when there is no such peer. */
  async peer(publicKey: string): Promise<string[] | null> {
    const lines = await this.get();
    const at = lines.indexOf(`public_key=${publicKey}`);
    if (at < 0) return null;
    const end = lines.findIndex((line, i) => i > at && line.startsWith("public_key="));
    return lines.slice(at + 1, end < 0 ? undefined : end);
  }
}

/** The value of a key in lines of a get. */
export const valueOf = (lines: string[], key: string): string | undefined =>
  lines.find((line) => line.startsWith(`${key}=`))?.slice(key.length + 1);
