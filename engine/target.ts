/**
 * Where connections go: an address, or a name that has some.
 *
 * @module
 */
import { parseAddress } from "../sys/address.ts";
import { printable } from "../sys/error.ts";
import { Address, resolve } from "../sys/socket.ts";

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
    const place = parseAddress(text);
    if (place instanceof Address) {
      this.#addresses = [place];
      this.#foundAt = Infinity;
    } else {
      this.#host = place.host;
      this.#port = place.port;
    }
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
