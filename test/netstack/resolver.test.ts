// Names resolved through the stack by a server on another stack, on a virtual clock.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import { WasmguardError } from "../../host/errors.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import { encodeQuery, readAnswer } from "../../host/netstack/dns.ts";
import { Resolver, type ResolveOptions } from "../../host/netstack/resolver.ts";
import { Stack } from "../../host/netstack/stack.ts";
import { a, aaaa, cname, createReply, NameServer, soa } from "../helpers/nameserver.ts";
import { A4, A6, B4, B6, createPair, hex, seeded, WireLink } from "../helpers/netstack.ts";

const OTHER = "10.9.0.3";

interface Settings {
  searchDomains?: string[];
  servers?: string[];
}

/** A resolver on one stack, and its server on another, which has two addresses. */
function create({ searchDomains, servers = [B4] }: Settings = {}) {
  const { clock, a: stack, linkA } = createPair();
  const linkB = new WireLink(clock);
  const addresses = [parseIp(B4), parseIp(B6), parseIp(OTHER)];
  const far = new Stack({ link: linkB, addresses, clock, random: seeded(9) });
  linkA.other = far;
  linkB.other = stack;
  const server = new NameServer(far, parseIp(B4));
  const resolver = new Resolver({ stack, servers: servers.map(parseIp), searchDomains, clock, random: seeded(4) });
  const resolve = async (name: string, options?: ResolveOptions): Promise<string[]> => {
    const result = resolver.resolve(name, options).then(
      (addresses) => addresses.map(({ address }) => formatIp(address)),
      (error) => [error instanceof WasmguardError ? error.code : String(error)],
    );
    await clock.runAsync(60_000, 100);
    return result;
  };
  return { clock, stack, far, server, resolver, resolve, linkA };
}

const names = suite("netstack resolver");

names("both families, IPv6 first; one if asked for one", async () => {
  const { server, resolve, stack, clock } = create();
  server.answer = (type, name) => ({
    answers: type === "A" ? [a(name, "1.2.3.4"), a(name, "1.2.3.5")] : [aaaa(name, "2001:db8::1")],
  });
  assert.deepEqual(await resolve("example.com"), ["2001:db8::1", "1.2.3.4", "1.2.3.5"]);
  assert.deepEqual(server.asked.sort(), ["A example.com by UDP", "AAAA example.com by UDP"]);
  assert.deepEqual(await resolve("other.example", { family: 4 }), ["1.2.3.4", "1.2.3.5"]);
  assert.deepEqual(server.asked.slice(2), ["A other.example by UDP"]);
  assert.deepEqual([stack.udp.size, clock.timers], [0, 0]);
});

names("an address of one family is enough; a stack of one family asks for that", async () => {
  const { server, resolve, clock } = create();
  server.answer = (type, name) => ({ answers: type === "A" ? [a(name, "1.2.3.4")] : [] });
  assert.deepEqual(await resolve("four.example"), ["1.2.3.4"]);
  assert.deepEqual(await resolve("four.example", { family: 6 }), ["ENOTFOUND"]);
  const link = new WireLink(clock);
  const stack = new Stack({ link, addresses: [parseIp(A4)], clock, random: seeded(1) });
  const resolver = new Resolver({ stack, servers: [parseIp(B4)], clock, random: seeded(1) });
  const controller = new AbortController();
  const asked = resolver.resolve("x.example", { signal: controller.signal }).catch(() => {});
  await clock.runAsync(1);
  assert.equal(link.sent, 1);
  controller.abort();
  await asked;
});

names("addresses as text, localhost, and what is no name need no server", async () => {
  const { server, resolve } = create();
  assert.deepEqual(await resolve("192.0.2.1"), ["192.0.2.1"]);
  assert.deepEqual(await resolve("2001:db8::1"), ["2001:db8::1"]);
  assert.deepEqual(await resolve("192.0.2.1", { family: 6 }), ["ENOTFOUND"]);
  assert.deepEqual(await resolve("localhost"), [A6, A4]);
  assert.deepEqual(await resolve("WWW.LocalHost.", { family: 4 }), [A4]);
  const label = "a".repeat(63);
  for (const name of [
    "",
    ".",
    "a..b",
    "-a.b",
    "a b",
    "a/b",
    `${label}a.b`,
    `${label}.`.repeat(4),
    "a\0b",
    "256.1.1.1\n",
  ]) {
    assert.deepEqual(await resolve(name), ["ENOTFOUND"], JSON.stringify(name));
  }
  assert.deepEqual(server.asked, []);
});

names("other scripts are asked for in ASCII, letters in lower case", async () => {
  const { server, resolve } = create();
  server.answer = (_, name) => ({ answers: [a(name, "1.2.3.4")] });
  await resolve("BÜCHER.example", { family: 4 });
  await resolve("ExAmPlE.com", { family: 4 });
  assert.deepEqual(server.asked, ["A xn--bcher-kva.example by UDP", "A example.com by UDP"]);
});

names("aliases in one answer, over several questions, in a circle", async () => {
  const { server, resolve } = create();
  server.answer = (_, name) => {
    if (name === "one.example") {
      return {
        answers: [a("three.example", "1.1.1.1"), cname("Two.example", "three.example"), cname(name, "two.example")],
      };
    }
    if (name === "far.example") return { answers: [cname(name, "farther.example")] };
    if (name === "farther.example") return { answers: [a(name, "2.2.2.2"), a("alien.example", "6.6.6.6")] };
    if (name === "circle.example") return { answers: [cname(name, "elcric.example")] };
    if (name === "elcric.example") return { answers: [cname(name, "circle.example")] };
    if (name === "self.example") return { answers: [cname(name, name)] };
    return { rcode: 3 };
  };
  assert.deepEqual(await resolve("one.example", { family: 4 }), ["1.1.1.1"]);
  assert.deepEqual(await resolve("far.example", { family: 4 }), ["2.2.2.2"]);
  assert.deepEqual(await resolve("circle.example", { family: 4 }), ["EAI_AGAIN"]);
  assert.deepEqual(await resolve("self.example", { family: 4 }), ["ENOTFOUND"]);
  assert.equal(server.asked.length < 20, true);
});

names("search domains: last for a name with a dot, first for one without, never for one that is whole", async () => {
  const { server, resolve } = create({ searchDomains: ["corp.example", "Lab.example."] });
  server.answer = (_, name) =>
    name === "db.lab.example" || name === "a.b.lab.example" ? { answers: [a(name, "1.1.1.1")] } : { rcode: 3 };
  const asked = async (name: string): Promise<string[]> => {
    server.asked.length = 0;
    await resolve(name, { family: 4 });
    return server.asked.map((line) => line.split(" ")[1]);
  };
  assert.deepEqual(await asked("db"), ["db.corp.example", "db.lab.example"]);
  assert.deepEqual(await asked("a.b"), ["a.b", "a.b.corp.example", "a.b.lab.example"]);
  assert.deepEqual(await asked("c.d."), ["c.d"]);
  assert.deepEqual(await asked("db."), ["db"]);
  assert.throws(() => create({ searchDomains: ["not a domain"] }), RangeError);
  assert.throws(() => create({ servers: [] }), RangeError);
});

names.run();

const caching = suite("netstack resolver cache");

caching("as long as the shortest TTL of the chain, and not at all for 0", async () => {
  const { server, resolver, clock } = create();
  server.answer = (_, name) =>
    name === "zero.example"
      ? { answers: [a(name, "1.1.1.1", 0)] }
      : { answers: [cname(name, "t.example", 30), a("t.example", "1.1.1.1", 90)] };
  const ask = async (name: string): Promise<void> => {
    const result = resolver.resolve(name, { family: 4 });
    await clock.runAsync(10, 1);
    await result;
  };
  await ask("alias.example");
  await ask("alias.example");
  assert.equal(server.asked.length, 1);
  await clock.runAsync(29_970);
  await ask("alias.example");
  assert.equal(server.asked.length, 1);
  await clock.runAsync(30);
  await ask("alias.example");
  assert.equal(server.asked.length, 2);
  await ask("zero.example");
  await ask("zero.example");
  assert.equal(server.asked.length, 4);
  assert.equal(resolver.cached, 1);
});

caching("what is not there, as long as the SOA says; without one, not at all (RFC 2308)", async () => {
  const { server, resolver, clock } = create();
  server.answer = (_, name) => ({
    rcode: name.startsWith("none") ? 3 : 0,
    authorities: name.endsWith("kept.example") ? [soa("example", 500, 20)] : [],
  });
  const ask = async (name: string): Promise<void> => {
    const result = assert.rejects(
      resolver.resolve(name, { family: 4 }),
      (error: WasmguardError) => error.code === "ENOTFOUND",
    );
    await clock.runAsync(10, 1);
    await result;
  };
  for (const name of ["none.kept.example", "empty.kept.example", "none.example", "empty.example"]) {
    await ask(name);
    await ask(name);
  }
  assert.equal(server.asked.length, 6);
  await clock.runAsync(20_000);
  await ask("none.kept.example");
  assert.equal(server.asked.length, 7);
});

caching("is bounded, and forgets what was longest not used", async () => {
  const { server, resolver, clock } = create();
  server.answer = (_, name) => ({ answers: [a(name, "1.1.1.1", 80_000)] });
  const ask = async (...all: string[]): Promise<void> => {
    const results = all.map((name) => resolver.resolve(name, { family: 4 }));
    await clock.runAsync(10, 5);
    await Promise.all(results);
  };
  await ask("first.example", "second.example");
  for (let i = 0; i < 1022; i += 511) await ask(...Array.from({ length: 511 }, (_, k) => `n${i + k}.example`));
  assert.equal(resolver.cached, 1024);
  await ask("first.example");
  await ask("one.more.example");
  assert.equal(resolver.cached, 1024);
  server.asked.length = 0;
  await ask("first.example");
  assert.deepEqual(server.asked, []);
  await ask("second.example");
  assert.equal(server.asked.length, 1);
});

caching("the same question at one time is one question", async () => {
  const { server, resolver, clock } = create();
  server.answer = (_, name) => ({ answers: [a(name, "1.1.1.1", 0)] });
  const results = Promise.all([1, 2, 3].map(() => resolver.resolve("x.example", { family: 4 })));
  await clock.runAsync(10, 1);
  assert.equal((await results).length, 3);
  assert.deepEqual([server.asked.length, resolver.pending], [1, 0]);
});

caching.run();

const trouble = suite("netstack resolver in trouble");

trouble("no answer: every server, in rounds of growing patience, then EAI_AGAIN", async () => {
  const { server, resolve, clock, linkA } = create();
  const before = clock.now();
  const times: number[] = [];
  linkA.change = (packet) => {
    times.push(clock.now());
    return [packet];
  };
  assert.deepEqual(await resolve("x.example", { family: 4 }), ["EAI_AGAIN"]);
  assert.equal(server.asked.length, 3);
  const gaps = times.slice(1).map((time, i) => Math.round((time - times[i]) / 500) / 2);
  assert.deepEqual(gaps, [2, 4]);
  assert.equal(clock.now() > before, true);
  assert.equal(clock.timers, 0);
});

trouble(
  "a server that refuses, fails or is not there: the next at once; the one that answered is asked first then",
  async () => {
    for (const reply of [{ rcode: 2 }, { rcode: 5 }, null]) {
      const { server, resolve, far } = create({ servers: [reply === null ? B6 : B4, OTHER] });
      server.answer = () => reply;
      const second = new NameServer(far, parseIp(OTHER));
      second.answer = (_, name) => ({ answers: [a(name, "1.1.1.1")] });
      assert.deepEqual(await resolve("x.example", { family: 4 }), ["1.1.1.1"]);
      assert.deepEqual(await resolve("y.example", { family: 4 }), ["1.1.1.1"]);
      assert.equal(server.asked.length, reply === null ? 0 : 1);
      assert.equal(second.asked.length, 2);
    }
  },
);

trouble("a failure of one family does not hide the other's addresses", async () => {
  const { server, resolve } = create();
  server.answer = (type, name) => (type === "A" ? { answers: [a(name, "1.1.1.1")] } : { rcode: 2 });
  assert.deepEqual(await resolve("x.example"), ["1.1.1.1"]);
  server.answer = (type) => (type === "A" ? {} : { rcode: 2 });
  assert.deepEqual(await resolve("y.example"), ["EAI_AGAIN"]);
});

trouble("truncated: again by TCP", async () => {
  const { server, resolve, stack, clock } = create();
  const many = Array.from({ length: 200 }, (_, i) => `10.1.${i >> 8}.${i & 255}`);
  server.answer = (_, name, by) =>
    by === "UDP" ? { truncated: true } : { answers: many.map((each) => a(name, each)) };
  assert.deepEqual(await resolve("x.example", { family: 4 }), many);
  assert.deepEqual(server.asked, ["A x.example by UDP", "A x.example by TCP"]);
  await clock.runAsync(300_000, 10_000);
  assert.deepEqual([stack.tcp.counts().connections, stack.udp.size, clock.timers], [0, 0, 0]);
});

trouble("truncated, and TCP gives nothing, nonsense or another's answer: EAI_AGAIN", async () => {
  const replies = [
    () => null,
    () => ({ raw: () => hex("0102") }),
    () => ({ truncated: true }),
    () => ({ raw: () => createReply({ id: 1, questions: [{ type: "A", name: "z" }] }, {}) }),
  ] as const;
  for (const reply of replies) {
    const { server, resolve, stack, clock } = create();
    server.answer = (_, __, by) => (by === "UDP" ? { truncated: true } : reply());
    assert.deepEqual(await resolve("x.example", { family: 4 }), ["EAI_AGAIN"]);
    await clock.runAsync(300_000, 10_000);
    assert.deepEqual([stack.tcp.counts().connections, clock.timers], [0, 0]);
  }
});

trouble("a server that does not know EDNS is asked without it", async () => {
  for (const rcode of [1, 4]) {
    const { server, resolve } = create();
    server.answer = (_, name, __, query) =>
      query.additionals!.length > 0 ? { rcode } : { answers: [a(name, "1.1.1.1")] };
    assert.deepEqual(await resolve("x.example", { family: 4 }), ["1.1.1.1"]);
    assert.equal(server.asked.length, 2);
  }
});

trouble("ids and ports are random", async () => {
  const { server, resolve } = create();
  server.answer = (_, name) => ({ answers: [a(name, "1.1.1.1")] });
  for (let i = 0; i < 8; i++) await resolve(`n${i}.example`);
  assert.equal(new Set(server.queries.map(({ packet }) => packet.id)).size > 14, true);
  assert.equal(new Set(server.queries.map(({ from }) => from.port)).size > 14, true);
});

trouble("answers that are not to the question, or not from the server, are ignored", async () => {
  const { server, resolve, far } = create();
  const liar = far.udp.open({ port: 53, address: parseIp(OTHER) });
  const otherPort = far.udp.open({ port: 5353, address: parseIp(B4) });
  server.answer = (_, name) => {
    const { packet: query, from } = server.queries.at(-1)!;
    const lie = [a(name, "6.6.6.6")];
    liar.send(createReply(query, { answers: lie }), from);
    otherPort.send(createReply(query, { answers: lie }), from);
    server.send(createReply({ ...query, id: query.id! ^ 1 }, { answers: lie }), from);
    server.send(createReply({ ...query, questions: [{ type: "A", name: "y.example" }] }, { answers: lie }), from);
    server.send(createReply({ ...query, questions: [{ type: "AAAA", name }] }, { answers: lie }), from);
    server.send(createReply({ ...query, questions: [] }, { answers: lie }), from);
    server.send(encodeQuery(query.id!, name, "A", false), from);
    server.send(hex("00"), from);
    return {
      answers: [a("z.example", "6.6.6.6"), a(name, "1.1.1.1"), { ...a(name, "6.6.6.6"), class: "CH" } as never],
    };
  };
  assert.deepEqual(await resolve("x.example", { family: 4 }), ["1.1.1.1"]);
});

trouble("a signal ends the wait of one, not of the others; the last one ends the question", async () => {
  const { resolver, clock, stack } = create();
  const [one, two] = [new AbortController(), new AbortController()];
  const results: string[] = [];
  const wait = (controller: AbortController): void => {
    resolver
      .resolve("x.example", { family: 4, signal: controller.signal })
      .catch((error) => results.push(String(error.message)));
  };
  wait(one);
  wait(two);
  await clock.runAsync(10);
  one.abort(new Error("first"));
  await clock.runAsync(10);
  assert.deepEqual([results, resolver.pending, stack.udp.size], [["first"], 1, 1]);
  two.abort(new Error("second"));
  await clock.runAsync(10);
  assert.deepEqual([results, resolver.pending, stack.udp.size], [["first", "second"], 0, 0]);
  assert.equal(clock.timers, 0);
  await assert.rejects(resolver.resolve("x.example", { signal: one.signal }), /first/);
});

trouble("close() ends everything", async () => {
  const { resolver, clock, stack } = create();
  const failed = assert.rejects(resolver.resolve("x.example"), (error: WasmguardError) => error.code === "ECANCELED");
  await clock.runAsync(10);
  resolver.close();
  await failed;
  await assert.rejects(resolver.resolve("x.example"), (error: WasmguardError) => error.code === "ECANCELED");
  assert.deepEqual([resolver.pending, stack.udp.size, clock.timers], [0, 0, 0]);
});

trouble("any bytes for an answer: no exception, and nothing that was not asked for", () => {
  const query = encodeQuery(0x1234, "x.example", "A", true);
  const good = createReply(
    { id: 0x1234, questions: [{ type: "A", class: "IN", name: "x.example" }] },
    { answers: [cname("x.example", "y.example"), a("y.example", "1.1.1.1")], authorities: [soa("example", 60, 60)] },
  );
  assert.equal(readAnswer(good, 0x1234, "x.example", "A")?.kind, "addresses");
  assert.equal(readAnswer(query, 0x1234, "x.example", "A"), null);
  const edit = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
  fc.assert(
    fc.property(fc.array(edit, { maxLength: 5 }), fc.option(fc.nat(good.length)), (edits, cut) => {
      const bytes = good.slice(0, cut ?? undefined);
      for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
      const result = readAnswer(bytes, 0x1234, "x.example", "A");
      if (result?.kind === "addresses")
        assert.equal(
          result.addresses.every(({ family }) => family === 4),
          true,
        );
    }),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void readAnswer(bytes, 0x1234, "x.example", "A")),
    { numRuns: 500 },
  );
});

trouble.run();
