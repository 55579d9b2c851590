/**
 * What a publisher fills in, once.
 *
 * @module
 */

/**
 * Where the repository and its releases are, on GitHub. What is packaged takes it
 * from here; a test finds the places that tell it to a person.
 */
export const REPOSITORY = "OWNER/REPOSITORY";
