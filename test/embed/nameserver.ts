// A DNS server inside a tunnel, over UDP and TCP, by another implementation of the wire format (dns-packet).

import * as dns from "@leichtgewicht/dns-packet";
import type { Tunnel } from "../../host/tunnel/tunnel.ts";

export interface NameServer {
  /** questions so far, "A name" */
  questions: string[];
  close(): Promise<void>;
}

type Records = Record<string, { a?: string[]; aaaa?: string[]; ttl?: number }>;

/** Answers for these names and with NXDOMAIN for all others. */
export function startNameServer(tunnel: Tunnel, records: Records): NameServer {
  const questions: string[] = [];
  const socket = tunnel.datagram({ port: 53 });
  socket.on("message", (bytes: Uint8Array, from: { address: string; port: number }) => {
    const query = dns.decode(Buffer.from(bytes)) as unknown as { id: number; questions: { type: string; name: string }[] };
    const [question] = query.questions;
    questions.push(`${question.type} ${question.name}`);
    const known = records[question.name.toLowerCase()];
    const addresses = (question.type === "A" ? known?.a : question.type === "AAAA" ? known?.aaaa : []) ?? [];
    const answer = dns.encode({
      type: "response",
      id: query.id,
      flags: dns.RECURSION_DESIRED | dns.RECURSION_AVAILABLE | (known ? 0 : 3),
      questions: query.questions,
      answers: addresses.map((data) => ({ type: question.type, name: question.name, ttl: known?.ttl ?? 60, data })),
    } as never);
    void socket.send(new Uint8Array(answer), from.port, from.address);
  });
  return {
    questions,
    async close() {
      socket.close();
    },
  };
}
