/**
 * What a publisher has to fill in once.
 *
 * @module
 */

/**
 * The repository on GitHub, with its releases. The packages take it from here, and a test
 * compares the places in the documentation.
 */
export const REPOSITORY = "OWNER/REPOSITORY";
