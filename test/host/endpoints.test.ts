// Endpoints by name: the rules on a virtual clock, every sequence of events up to a length, and the keeper around them
// with a resolver whose answers the test gives.

import assert from "node:assert";
import { suite } from "uvu";
import {
  EVENT_HANDSHAKE_COMPLETE,
  EVENT_HANDSHAKE_GIVEN_UP,
  EVENT_INITIATION_SENT,
  EVENT_KEEPALIVE_SENT,
  EVENT_PEER_SILENT,
  EVENT_ROAMED,
  EVENT_SESSION_CONFIRMED,
} from "../../assembly/abi.ts";
import { parseConfig } from "../../host/config.ts";
import { EndpointChoice, NameSchedule } from "../../host/endpoint-choice.ts";
import {
  EndpointKeeper,
  type KeeperClock,
  namedPeers,
  type NameResolver,
  type Resolution,
  resolveNames,
  systemResolver,
} from "../../host/endpoints.ts";
import { formatEndpoint } from "../../host/endpoint.ts";
import { formatIp, type IpAddress, parseIp } from "../../host/ip.ts";

// From the whitepaper §6.1 and §6.2, not from the code under test.
const REKEY_TIMEOUT_MS = 5000;
const REJECT_AFTER_TIME_MS = 180_000;

const [A, B, C, SIX] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::6"].map(parseIp);

const text = (ip: IpAddress | null): string | null => ip && formatIp(ip.address);

const choices = suite("the choice of an endpoint");

choices("the first address of the first answer is used, and kept while it is among the answers", () => {
  const choice = new EndpointChoice();
  assert.equal(text(choice.resolved([A, B], 0).use), "10.0.0.1");
  assert.equal(choice.resolved([B, A], 1000).use, null);
  assert.equal(choice.deadline, Infinity);
});

choices("an address that never worked is left after one initiation without an answer, in turns of the families", () => {
  const choice = new EndpointChoice();
  const used = [text(choice.resolved([SIX, parseIp("2001:db8::7"), A, B], 0).use)];
  let now = 0;
  for (let i = 0; i < 5; i++) {
    assert.deepEqual(choice.initiationSent(now), { use: null, resolve: false });
    const left = choice.deadline;
    assert.ok(left > now && left < now + REKEY_TIMEOUT_MS, "before the core would repeat it");
    assert.equal(choice.tick(left - 1).use, null);
    used.push(text(choice.tick(left).use));
    now += REKEY_TIMEOUT_MS;
  }
  assert.deepEqual(used, ["2001:db8::6", "10.0.0.1", "2001:db8::7", "10.0.0.2", "2001:db8::6", "10.0.0.1"]);
});

choices("an answer before that keeps it, and an address that worked gets three initiations", () => {
  const choice = new EndpointChoice();
  choice.resolved([A, B], 0);
  choice.initiationSent(0);
  choice.answered(100);
  assert.equal(choice.deadline, Infinity);
  choice.initiationSent(120_000);
  choice.initiationSent(125_000);
  assert.equal(choice.deadline, Infinity, "two are not enough");
  assert.equal(choice.initiationSent(130_000).resolve, true, "and then the name is asked for, too");
  assert.equal(text(choice.tick(choice.deadline).use), "10.0.0.2");
});

choices("the only address stays, however many initiations it leaves unanswered", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  for (let i = 0; i < 18; i++) choice.initiationSent(i * REKEY_TIMEOUT_MS);
  assert.equal(choice.deadline, Infinity);
});

choices("a living peer is not moved by a new answer; one whose last handshake is old is", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  choice.answered(1000);
  assert.equal(choice.resolved([B], 1000 + REJECT_AFTER_TIME_MS - 1).use, null);
  assert.equal(text(choice.resolved([B], 1000 + REJECT_AFTER_TIME_MS).use), "10.0.0.2");
});

choices("what was learnt while the peer lived is used when its handshakes fail, without another answer", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  choice.answered(1000);
  assert.equal(choice.resolved([B], 60_000).use, null);
  for (let i = 0; i < 3; i++) choice.initiationSent(70_000 + i * REKEY_TIMEOUT_MS);
  assert.equal(text(choice.tick(choice.deadline).use), "10.0.0.2");
});

choices("a roamed endpoint that lives stays; idle, it stays until the name says something new", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  choice.roamed(10_000);
  assert.equal(choice.resolved([A], 20_000).use, null);
  assert.equal(choice.resolved([A], 10_000 + REJECT_AFTER_TIME_MS).use, null, "nothing new");
  assert.equal(text(choice.resolved([A, B], 200_000 + REJECT_AFTER_TIME_MS).use), "10.0.0.1");
});

choices("a roamed endpoint that falls silent is replaced by what the name says, news or not", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  choice.roamed(10_000);
  assert.equal(choice.failed().resolve, true);
  assert.equal(text(choice.resolved([A], 26_000).use), "10.0.0.1");
});

choices("a roamed endpoint that leaves three initiations unanswered is left for the name's only address", () => {
  const choice = new EndpointChoice();
  choice.resolved([A], 0);
  choice.roamed(10_000);
  for (let i = 0; i < 3; i++) choice.initiationSent(20_000 + i * REKEY_TIMEOUT_MS);
  assert.equal(text(choice.tick(choice.deadline).use), "10.0.0.1");
});

choices("a peer that came to us before its name was known is left where it is", () => {
  const choice = new EndpointChoice();
  choice.roamed(0);
  choice.answered(1);
  assert.equal(choice.resolved([A], 1000).use, null);
});

choices("every sequence of six events keeps the rules", () => {
  type Step = (choice: EndpointChoice, now: number) => { use: IpAddress | null };
  const answers = [[A], [B, SIX], [A, B, C]];
  const steps: { name: string; run: Step }[] = [
    ...answers.map((addresses, i) => ({
      name: `answer${i}`,
      run: (choice: EndpointChoice, now: number) => choice.resolved(addresses, now),
    })),
    { name: "initiation", run: (choice, now) => choice.initiationSent(now) },
    { name: "answered", run: (choice, now) => (choice.answered(now), { use: null }) },
    { name: "roamed", run: (choice, now) => (choice.roamed(now), { use: null }) },
    { name: "failed", run: (choice) => choice.failed() },
    { name: "soon", run: (choice, now) => choice.tick(now) },
    { name: "late", run: (choice, now) => choice.tick(now) },
  ];
  const LENGTH = 6;
  let used = 0;
  for (let number = 0; number < steps.length ** LENGTH; number++) {
    const choice = new EndpointChoice();
    let now = 0;
    let aliveAt = -Infinity;
    let failed = false;
    let addresses: IpAddress[] = [];
    let unanswered = 0;
    const path: string[] = [];
    for (let i = 0, rest = number; i < LENGTH; i++, rest = Math.floor(rest / steps.length)) {
      const { name, run } = steps[rest % steps.length];
      path.push(name);
      now += name === "soon" ? REKEY_TIMEOUT_MS : name === "late" ? REJECT_AFTER_TIME_MS : 1;
      if (name.startsWith("answer") && name !== "answered") addresses = answers[Number(name.slice(6))];
      if (name === "initiation") unanswered++;
      if (name === "answered" || name === "roamed") [aliveAt, failed, unanswered] = [now, false, 0];
      if (name === "failed") failed = true;
      const { use } = run(choice, now);
      if (use !== null) {
        used++;
        if (!addresses.includes(use)) assert.fail(`${path}: an address that is not of the name`);
        const lives = !failed && now - aliveAt < REJECT_AFTER_TIME_MS;
        if (lives && unanswered === 0) assert.fail(`${path}: moved away from a peer that lives`);
        unanswered = 0;
        failed = true;
      }
      if (choice.deadline <= now) assert.fail(`${path}: a deadline that nobody would meet`);
    }
  }
  assert.ok(used > 100_000, `${used} decisions`);
});

choices.run();

const schedules = suite("when a name is asked for");

schedules("when its time to live ends, in bounds", () => {
  const schedule = new NameSchedule(7);
  assert.equal(schedule.deadline, 7, "at once");
  for (const [ttlMs, expected] of [[60_000, 60_000], [undefined, 300_000], [0, 5000], [1e12, 86_400_000]]) {
    schedule.asked(1000);
    assert.equal(schedule.deadline, Infinity, "not while it is asked");
    schedule.answered(2000, ttlMs);
    assert.equal(schedule.deadline, 2000 + expected!);
  }
});

schedules("after failures later and later", () => {
  const schedule = new NameSchedule(0);
  const waits = Array.from({ length: 9 }, () => {
    schedule.asked(0);
    schedule.failed(0);
    return schedule.deadline / 1000;
  });
  assert.deepEqual(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
  schedule.answered(0, 60_000);
  schedule.failed(0);
  assert.equal(schedule.deadline, 5000);
});

schedules("earlier when something hurries it, but not before five seconds are over", () => {
  const schedule = new NameSchedule(0);
  schedule.asked(0);
  schedule.hurry(1);
  assert.equal(schedule.deadline, Infinity, "it is being asked");
  schedule.answered(100, 60_000);
  schedule.hurry(200);
  assert.equal(schedule.deadline, 5000);
  schedule.asked(5000);
  schedule.answered(5000, 60_000);
  schedule.hurry(20_000);
  assert.equal(schedule.deadline, 20_000);
});

schedules.run();

/** A clock that the test moves, and what is armed on it. */
class VirtualClock implements KeeperClock {
  time = 0;
  readonly armed = new Set<{ at: number; fire: () => void }>();
  /** all delays that were ever asked for */
  readonly delays: number[] = [];

  now(): number {
    return this.time;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.time + ms, fire: run };
    this.delays.push(ms);
    this.armed.add(timer);
    return () => void this.armed.delete(timer);
  }

  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      await settle();
      const [next] = [...this.armed].sort((a, b) => a.at - b.at);
      if (next === undefined || next.at > end) break;
      this.time = next.at;
      this.armed.delete(next);
      next.fire();
    }
    this.time = end;
    await settle();
  }
}

/** Lets every promise that can go on do so. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

const KEYS = [1, 2].map((byte) => new Uint8Array(32).fill(byte));

interface Bench {
  clock: VirtualClock;
  keeper: EndpointKeeper;
  /** "name" of each question */
  asked: string[];
  /** "peer endpoint" of each that was set */
  set: string[];
  /** what the resolver says next; an Error is thrown */
  answers: Map<string, Resolution | Error>;
}

function bench(hosts: string[], options: { resolved?: Map<string, Resolution>; fail?: Error } = {}): Bench {
  const clock = new VirtualClock();
  const [asked, set]: string[][] = [[], []];
  const answers = new Map<string, Resolution | Error>();
  const resolver: NameResolver = async (name) => {
    asked.push(name);
    const answer = answers.get(name);
    if (answer instanceof Error || answer === undefined) throw answer ?? new Error("no answer");
    return answer;
  };
  const keeper = new EndpointKeeper({
    peers: hosts.map((host, i) => ({ publicKey: KEYS[i], host, port: 1000 + i })),
    setEndpoint: (publicKey, endpoint) => {
      set.push(`${publicKey[0]} ${formatEndpoint(endpoint)}`);
      if (options.fail) throw options.fail;
    },
    resolver,
    clock,
    resolved: options.resolved,
  });
  return { clock, keeper, asked, set, answers };
}

const keepers = suite("the keeper of endpoints");

keepers("addresses need no question, no timer, nothing", async () => {
  const { clock, keeper, asked, set } = bench(["10.0.0.1", "fe80::1%2"]);
  keeper.start();
  keeper.event(KEYS[0], EVENT_HANDSHAKE_GIVEN_UP);
  await clock.advance(1e6);
  assert.deepEqual([clock.delays, asked, set], [[], [], []]);
});

keepers("peers of one name share its question, and each has its port", async () => {
  const { clock, keeper, asked, set, answers } = bench(["vpn.example", "vpn.example"]);
  answers.set("vpn.example", { addresses: [SIX, A], ttlMs: 60_000 });
  keeper.start();
  await clock.advance(1000);
  assert.deepEqual(asked, ["vpn.example"]);
  assert.deepEqual(set, ["1 [2001:db8::6]:1000", "2 [2001:db8::6]:1001"]);
  assert.equal(clock.armed.size, 1, "one timer");
  await clock.advance(60_000);
  assert.equal(asked.length, 2);
  assert.equal(set.length, 2, "nothing new, nothing set");
  assert.equal(clock.armed.size, 1);
});

keepers("what is resolved already is not set again, and asked for when its time ends", async () => {
  const resolved = new Map([["vpn.example", { addresses: [A], ttlMs: 30_000 }]]);
  const { clock, keeper, asked, set, answers } = bench(["vpn.example"], { resolved });
  answers.set("vpn.example", { addresses: [B], ttlMs: 30_000 });
  keeper.start();
  await clock.advance(29_999);
  assert.deepEqual([asked, set], [[], []]);
  await clock.advance(1);
  assert.deepEqual([asked, set], [["vpn.example"], ["1 10.0.0.2:1000"]]);
});

keepers("a name that is not known yet is asked for until it is", async () => {
  const { clock, keeper, asked, set, answers } = bench(["vpn.example"]);
  keeper.start();
  await clock.advance(30_000); // 0, 5 and 15 s, next at 35 s
  assert.equal(asked.length, 3);
  answers.set("vpn.example", { addresses: [A] });
  await clock.advance(10_000);
  assert.deepEqual(set, ["1 10.0.0.1:1000"]);
});

for (const [name, type] of [["silent", EVENT_PEER_SILENT], ["given up", EVENT_HANDSHAKE_GIVEN_UP]] as const) {
  keepers(`a peer that is ${name} has its name asked for at once`, async () => {
    const { clock, keeper, asked, set, answers } = bench(["vpn.example"]);
    answers.set("vpn.example", { addresses: [A] });
    keeper.start();
    await clock.advance(1000);
    keeper.event(KEYS[0], EVENT_HANDSHAKE_COMPLETE);
    await clock.advance(20_000);
    answers.set("vpn.example", { addresses: [B] });
    keeper.event(KEYS[0], type);
    await clock.advance(0);
    assert.deepEqual([asked.length, set.at(-1)], [2, "1 10.0.0.2:1000"]);
    for (let i = 0; i < 100; i++) keeper.event(KEYS[0], type);
    await clock.advance(4999);
    assert.equal(asked.length, 2, "but no more often than every five seconds");
    await clock.advance(1);
    assert.equal(asked.length, 3);
  });
}

keepers("addresses are tried in turn until a handshake completes, and that one is kept", async () => {
  const { clock, keeper, set, answers } = bench(["vpn.example"]);
  answers.set("vpn.example", { addresses: [SIX, A] });
  keeper.start();
  await clock.advance(0);
  keeper.event(KEYS[0], EVENT_INITIATION_SENT);
  await clock.advance(REKEY_TIMEOUT_MS);
  keeper.event(KEYS[0], EVENT_INITIATION_SENT);
  await clock.advance(50);
  keeper.event(KEYS[0], EVENT_HANDSHAKE_COMPLETE);
  await clock.advance(REJECT_AFTER_TIME_MS);
  assert.deepEqual(set, ["1 [2001:db8::6]:1000", "1 10.0.0.1:1000"]);
});

for (const type of [EVENT_ROAMED, EVENT_SESSION_CONFIRMED]) {
  keepers(`event ${type} keeps the endpoint where the peer is`, async () => {
    const { clock, keeper, set, answers } = bench(["vpn.example"]);
    answers.set("vpn.example", { addresses: [A], ttlMs: 10_000 });
    keeper.start();
    await clock.advance(9000);
    keeper.event(KEYS[0], type);
    answers.set("vpn.example", { addresses: [B], ttlMs: 10_000 });
    await clock.advance(REJECT_AFTER_TIME_MS - 10_000);
    assert.deepEqual(set, ["1 10.0.0.1:1000"]);
    await clock.advance(20_000);
    // A roamed peer that is idle stays: the second answer was news, and came while it lived.
    assert.deepEqual(set.slice(1), type === EVENT_ROAMED ? [] : ["1 10.0.0.2:1000"]);
  });
}

keepers("events of other kinds and of other peers change nothing", async () => {
  const { clock, keeper, asked, answers } = bench(["vpn.example"]);
  answers.set("vpn.example", { addresses: [A, B] });
  keeper.start();
  await clock.advance(10_000);
  const armed = clock.delays.length;
  keeper.event(KEYS[0], EVENT_KEEPALIVE_SENT);
  keeper.event(KEYS[1], EVENT_PEER_SILENT);
  assert.equal(clock.delays.length, armed);
  assert.equal(asked.length, 1);
});

keepers("an endpoint that cannot be set stops nothing", async () => {
  const { clock, keeper, set, answers } = bench(["vpn.example"], { fail: new Error("no memory") });
  answers.set("vpn.example", { addresses: [A, B] });
  keeper.start();
  await clock.advance(0);
  keeper.event(KEYS[0], EVENT_INITIATION_SENT);
  await clock.advance(REKEY_TIMEOUT_MS);
  assert.equal(set.length, 2);
});

keepers("closed, it has no timer and sets nothing, though an answer is still to come", async () => {
  const clock = new VirtualClock();
  const set: string[] = [];
  let answer = (_: Resolution): void => {};
  const keeper = new EndpointKeeper({
    peers: [{ publicKey: KEYS[0], host: "vpn.example", port: 1 }],
    setEndpoint: () => void set.push("set"),
    resolver: () => new Promise((resolve) => (answer = resolve)),
    clock,
  });
  keeper.start();
  keeper.close();
  answer({ addresses: [A] });
  await clock.advance(1e6);
  keeper.event(KEYS[0], EVENT_PEER_SILENT);
  assert.deepEqual([set, clock.armed.size], [[], 0]);
});

keepers.run();

const first = suite("names of a configuration");

const PEER = (endpoint: string): string =>
  `[Peer]\nPublicKey=${Buffer.alloc(32, 7).toString("base64")}\nEndpoint=${endpoint}\n`;
const config = parseConfig(PEER("a.example:1") + PEER("b.example:2") + PEER("10.0.0.9:3") + PEER("a.example:4"));

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}

first("only peers with names are kept", () => {
  assert.deepEqual(namedPeers(config).map(({ host, port }) => `${host}:${port}`), [
    "a.example:1",
    "b.example:2",
    "a.example:4",
  ]);
});

first("each is resolved once, and again while the resolver is not there", async () => {
  const clock = new VirtualClock();
  const asked: string[] = [];
  const resolver: NameResolver = async (name) => {
    asked.push(name);
    if (name === "b.example" && asked.length < 5) throw failure("EAI_AGAIN");
    return { addresses: [A] };
  };
  const retries: string[] = [];
  const work = resolveNames(config, {
    resolver,
    clock,
    onRetry: (host, code, ms) => retries.push(`${host} ${code} ${ms}`),
  });
  await clock.advance(10_000);
  assert.deepEqual([...(await work).keys()], ["a.example", "b.example"]);
  assert.deepEqual(retries, ["b.example EAI_AGAIN 1000", "b.example EAI_AGAIN 1200", "b.example EAI_AGAIN 1440"]);
});

first("a name that does not exist fails at once, one without an answer after fifteen times more", async () => {
  for (const [code, attempts] of [["ENOTFOUND", 1], ["EAI_AGAIN", 16]] as const) {
    const clock = new VirtualClock();
    let asked = 0;
    const resolver: NameResolver = async () => {
      asked++;
      throw failure(code);
    };
    const work = resolveNames(parseConfig(PEER("a.example:1")), { resolver, clock });
    const ended = assert.rejects(
      work,
      (error: Error & { code: string }) => error.code === code && /Cannot resolve a\.example: /.test(error.message),
    );
    await clock.advance(1e6);
    await ended;
    assert.equal(asked, attempts);
  }
});

first("a signal ends the waiting, and its timer", async () => {
  const clock = new VirtualClock();
  const aborter = new AbortController();
  const resolver: NameResolver = () => Promise.reject(failure("EAI_AGAIN"));
  const ended = assert.rejects(resolveNames(config, { resolver, clock, signal: aborter.signal }), /enough/);
  await clock.advance(500);
  assert.ok(clock.armed.size > 0, "it waits");
  aborter.abort(new Error("enough"));
  await ended;
  assert.equal(clock.armed.size, 0);
});

first("the system's resolver knows localhost, and that .invalid does not exist", async () => {
  const { addresses } = await systemResolver("localhost");
  assert.ok(addresses.some((ip) => ["127.0.0.1", "::1"].includes(text(ip)!)), addresses.map(text).join());
  await assert.rejects(
    systemResolver("nothing.invalid"),
    (error: { code: string }) => /^(ENOTFOUND|EAI_AGAIN)$/.test(error.code),
  );
});

first.run();
