/** Who may be in a {@linkcode Members}: in one at a time. */
export interface Member {
  /** Its place there. */
  place: number;
}

/**
 * A set of what comes and goes often. A `Set` makes its table anew after so many
 * changes, and the old table, which V8 has moved to its space for old objects by
 * then, keeps all alive that was in it: nothing that was a member would be young
 * garbage, which costs next to nothing.
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
