// Reads what the other end sent: every field has a type and a range, and an error names the field. Pure.

import { WasmguardError } from "../errors.ts";

export class Fields {
  readonly #record: Record<string, unknown>;
  readonly #what: string;

  /** @throws WasmguardError EPROTO unless it is an object */
  constructor(value: unknown, what: string) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw refused(what, "is no object");
    this.#record = value as Record<string, unknown>;
    this.#what = what;
  }

  number(name: string, min: number, max: number): number {
    return inRange(this.#get(name), min, max, `${this.#what}.${name}`);
  }

  integer(name: string, min: number, max: number): number {
    const value = this.number(name, min, max);
    if (!Number.isInteger(value)) throw refused(`${this.#what}.${name}`, "is no whole number");
    return value;
  }

  text(name: string, pattern: RegExp): string {
    const value = this.#get(name);
    if (typeof value !== "string" || !pattern.test(value)) throw refused(`${this.#what}.${name}`, `is not as ${pattern}`);
    return value;
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T {
    const value = this.#get(name);
    if (!values.includes(value as T)) throw refused(`${this.#what}.${name}`, `is none of ${values.join(", ")}`);
    return value as T;
  }

  numbers(name: string, maxCount: number, max: number): number[] {
    const value = this.#get(name);
    if (!Array.isArray(value) || value.length > maxCount) {
      throw refused(`${this.#what}.${name}`, `is no list of up to ${maxCount}`);
    }
    return value.map((each, i) => inRange(each, 0, max, `${this.#what}.${name}[${i}]`));
  }

  /** How often, by error code. */
  counts(name: string, maxCount: number, max: number): Record<string, number> {
    const value = this.#get(name);
    new Fields(value, `${this.#what}.${name}`);
    const entries = Object.entries(value as Record<string, unknown>);
    if (entries.length > maxCount) throw refused(`${this.#what}.${name}`, `has more than ${maxCount} entries`);
    return Object.fromEntries(
      entries.map(([code, count]) => {
        if (!/^[A-Z][A-Z0-9_]{0,39}$/.test(code)) throw refused(`${this.#what}.${name}`, "has a code that is none");
        return [code, inRange(count, 0, max, `${this.#what}.${name}.${code}`)];
      }),
    );
  }

  inside(name: string): Fields {
    return new Fields(this.#get(name), `${this.#what}.${name}`);
  }

  /** What `read` makes of it, or null where it is null. */
  optional<T>(name: string, read: (fields: Fields) => T): T | null {
    const value = this.#get(name);
    return value === null ? null : read(new Fields(value, `${this.#what}.${name}`));
  }

  #get(name: string): unknown {
    return Object.hasOwn(this.#record, name) ? this.#record[name] : undefined;
  }
}

function inRange(value: unknown, min: number, max: number, what: string): number {
  if (typeof value !== "number" || !(value >= min && value <= max)) throw refused(what, `is not in ${min}..${max}`);
  return value;
}

function refused(what: string, why: string): WasmguardError {
  return new WasmguardError("EPROTO", `${what} ${why}`);
}
