/** Who may be in a {@linkcode Members}: in one at a time. */
export interface Member {
  /** Its place there. */
  place: number;
}

/**
 * A set whose members come and go all the time, as connections do. It is an array, not a `Set`: in
 * V8, a `Set` that changes all the time allocates a new table again and again. The old table, by
 * then in the old generation, keeps the members that it had alive until a full collection, long
 * after they have left. Here nothing refers to those that have left: they die young, which costs
 * next to nothing.
 */
export class Members<T extends Member> implements Iterable<T> {
  readonly #all: T[] = [];

  get size(): number {
    return this.#all.length;
  }

  add(member: T): void {
    member.place = this.#all.length;
    this.#all.push(member);
  }

  /** Takes out one that is in it. */
  delete(member: T): void {
    const last = this.#all.pop();
    if (last === undefined || last === member) return;
    this.#all[member.place] = last;
    last.place = member.place;
  }

  /** Those that are in it now: what is added or taken out meanwhile changes nothing. */
  [Symbol.iterator](): Iterator<T> {
    return [...this.#all][Symbol.iterator]();
  }
}
