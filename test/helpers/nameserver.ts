// A name server for the tests: it runs on a stack of its own and says what a table tells it, by UDP and TCP.

import { type Answer, decode, encode, type Packet } from "@leichtgewicht/dns-packet";
import type { IpAddress } from "../../host/ip.ts";
import type { Stack } from "../../host/netstack/stack.ts";
import type { SocketAddress, TcpConnection, UdpSocket } from "../../host/netstack/types.ts";

export interface Reply {
  rcode?: number;
  answers?: Answer[];
  authorities?: Answer[];
  truncated?: boolean;
  /** instead of all that */
  raw?: (query: Packet, message: Uint8Array) => Uint8Array | null;
}

const TRUNCATED = 1 << 9;
const RECURSION = 0x180;

export class NameServer {
  /** "TYPE name by UDP" and so on, as they came */
  readonly asked: string[] = [];
  /** the queries themselves */
  readonly queries: { packet: Packet; from: SocketAddress }[] = [];
  /** null: silence */
  answer: (type: string, name: string, by: "UDP" | "TCP", query: Packet) => Reply | null = () => null;
  readonly #udp: UdpSocket;

  constructor(stack: Stack, address?: IpAddress) {
    this.#udp = stack.udp.open({ port: 53, address });
    this.#udp.onDatagram = (message, from) => {
      const reply = this.#reply(message, "UDP", from);
      if (reply !== null) this.#udp.send(reply, from);
    };
    const listener = stack.tcp.listen(53, { address });
    listener.onConnection = (connection: TcpConnection) => this.#serve(connection);
  }

  /** Something the server sends of itself. */
  send(message: Uint8Array, to: SocketAddress): void {
    this.#udp.send(message, to);
  }

  #serve(connection: TcpConnection): void {
    let stream = new Uint8Array(0);
    const read = (): void => {
      for (let chunk = connection.read(); chunk !== null; chunk = connection.read())
        stream = Uint8Array.from([...stream, ...chunk]);
      const length = (stream[0] << 8) | stream[1];
      if (stream.length < 2 + length) return;
      const reply = this.#reply(stream.slice(2, 2 + length), "TCP", connection.remote);
      stream = new Uint8Array(0);
      if (reply === null) return;
      // in two writes, so that the reader meets a cut
      connection.write(Uint8Array.of(reply.length >>> 8, reply.length & 0xff, reply[0]));
      connection.write(reply.subarray(1));
      connection.shutdown();
    };
    connection.onReadable = read;
    read();
  }

  #reply(message: Uint8Array, by: "UDP" | "TCP", from: SocketAddress): Uint8Array | null {
    const query = decode(message);
    const [question] = query.questions!;
    this.asked.push(`${question.type} ${question.name} by ${by}`);
    this.queries.push({ packet: query, from });
    const reply = this.answer(question.type, question.name, by, query);
    if (reply === null) return null;
    if (reply.raw !== undefined) return reply.raw(query, message);
    return createReply(query, reply);
  }
}

export function createReply(
  query: Packet,
  { rcode = 0, answers = [], authorities = [], truncated = false }: Reply,
): Uint8Array {
  const flags = RECURSION | rcode | (truncated ? TRUNCATED : 0);
  return encode({ type: "response", id: query.id, flags, questions: query.questions, answers, authorities });
}

export const a = (name: string, data: string, ttl = 60): Answer => ({ type: "A", class: "IN", name, ttl, data });
export const aaaa = (name: string, data: string, ttl = 60): Answer => ({ type: "AAAA", class: "IN", name, ttl, data });
export const cname = (name: string, data: string, ttl = 60): Answer => ({
  type: "CNAME",
  class: "IN",
  name,
  ttl,
  data,
});

export function soa(name: string, ttl: number, minimum: number): Answer {
  return { type: "SOA", class: "IN", name, ttl, data: { mname: "ns", rname: "root", minimum } };
}
