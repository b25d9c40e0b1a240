// How large a word of a token cloud is: in proportion to its value, as long as it can be read.

const LARGEST = 27;
const READABLE = 13;

/** The largest size of any value at either end of a side; 1 where all are zero, so that one may divide by it. */
export const most = ({ top, bottom }) =>
  [...top, ...bottom].reduce((size, { value }) => Math.max(size, Math.abs(value)), 0) || 1;

/** The size in pixels of a word whose value is `share` of the largest, whatever its sign. */
export const fontSize = (share) => Math.max(READABLE, LARGEST * Math.min(1, Math.abs(share)));
