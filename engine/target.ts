/**
 * Where connections go: an address, or a name that has some.
 *
 * @module
 */
import { printable, quoted } from "../sys/error.ts";
import { type Address, numericAddress, resolve, unixAddress } from "../sys/socket.ts";

/** For how long the addresses of a name are used without asking again. */
const ADDRESSES_VALID_MS = 30_000;

/**
 * A target in words: HOST:PORT, [V6]:PORT, a path with a slash, or @name.
 */
export class Target {
  readonly #text: string;
  readonly #host: string = "";
  readonly #port: number = 0;
  #addresses: readonly Address[] = [];
  /** When they were found; Infinity for numbers and paths. */
  #foundAt = -Infinity;
  #asking: Promise<string | undefined> | undefined;
  #best = 0;

  /** Throws a `RangeError` where the words are none, with the reason. */
  constructor(text: string) {
    this.#text = printable(text);
    if (text.includes("/") || text.startsWith("@")) {
      if (text.length < 2) throw new RangeError(`${quoted(text)} is not a target`);
      this.#addresses = [unixAddress(text)];
      this.#foundAt = Infinity;
      return;
    }
    const [, bracketed, plain = "", digits = ""] =
      /^(?:\[([0-9a-fA-F:.]+(?:%[^\]\s]+)?)\]|([^:[\]\s]+)):(\d+)$/.exec(text) ?? [];
    const port = digits.length > 5 ? NaN : Number(digits);
    if (!bracketed && !plain) {
      throw new RangeError(
        `${quoted(text)} is not HOST:PORT, [IPv6]:PORT, a path or @name`,
      );
    }
    if (!(port >= 1 && port <= 65535)) {
      throw new RangeError(`${quoted(text)}: a port is a number from 1 to 65535`);
    }
    this.#host = bracketed ?? plain;
    this.#port = port;
    const [numbers = ""] = this.#host.split("%");
    if (bracketed && numericAddress(numbers, port)?.version !== 6) {
      throw new RangeError(`${quoted(text)}: the brackets do not contain an IPv6 address`);
    }
    // A name, or an IPv6 address of one interface: "fe80::1%eth0" is getaddrinfo(3)'s to know.
    const address = numericAddress(this.#host, port);
    if (!address) return;
    this.#addresses = [address];
    this.#foundAt = Infinity;
  }

  /** As it was written, but for control characters. */
  toString(): string {
    return this.#text;
  }

  /** The addresses, where they are known; a name is asked again after a while, and the old ones serve meanwhile. */
  get addresses(): readonly Address[] {
    const mayChange = this.#foundAt !== Infinity && this.#addresses.length > 0;
    if (mayChange && performance.now() - this.#foundAt > ADDRESSES_VALID_MS) void this.find();
    return this.#addresses;
  }

  /** Which of them is to be tried first. */
  get best(): number {
    return this.#best;
  }

  /** One was reached: it is the first to be tried, lest each connection wait for one that is dead. */
  prefer(address: Address): void {
    if (address !== this.#addresses[this.#best]) this.#best = this.#indexOf(address);
  }

  /** Its index; 0 where it is none of the addresses. By its text, as each look-up makes them anew. */
  #indexOf(address: Address | undefined): number {
    return Math.max(0, this.#addresses.findIndex((other) => String(other) === String(address)));
  }

  /** Asks for the addresses of the name; undefined once they are there, else in words why they are not. */
  find(): Promise<string | undefined> {
    return this.#asking ??= this.#ask().finally(() => this.#asking = undefined);
  }

  async #ask(): Promise<string | undefined> {
    const found = await resolve(this.#host, this.#port);
    this.#foundAt = performance.now(); // the old ones serve on where nothing was found
    if (typeof found === "string") return found;
    const best = this.#addresses[this.#best];
    this.#addresses = found;
    this.#best = this.#indexOf(best);
    return found.length > 0 ? undefined : "the name has no address";
  }
}
