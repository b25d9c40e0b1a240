// What an explanation claims in short, and how strongly: where the answer is settled, and which checks bear it out.

/**
 * The first row from which the logit difference stays at least half of what it is at the end, with the least that it is
 * from there on; null where it ends at or below zero. The embedding's row, the first, has read no layer and decides
 * nothing.
 */
export function leadsFrom(differences, layers) {
  const half = differences.at(-1) / 2;
  if (half <= 0) return null;
  const first = differences.findLastIndex((difference) => difference < half) + 1;
  const row = layers[first] === BEFORE_ANY_LAYER ? first + 1 : first;
  return { row, margin: Math.min(...differences.slice(row)) };
}

/** What the layer before the last has, where the last one alone decides; null where the answer led earlier. */
export function beforeTheLast(differences, layers, lead) {
  const before = differences.length - 2;
  return lead.row > before && layers[before] !== BEFORE_ANY_LAYER ? differences[before] : null;
}

/** The name of the row before any layer. */
export const BEFORE_ANY_LAYER = "embed";

/** Which input method's highest tokens the metric needs most, as removal measured; the first where none was compared. */
export function leadingMethod({ methods, comparison }) {
  const lost = comparison?.comprehensiveness ?? [];
  return methods[lost.indexOf(Math.max(...lost))] ?? methods[0];
}

/** "held", "weak" or "failed"; documents of earlier versions know only the first and the last. */
export const verdictOf = (check) => check.verdict ?? (check.passed ? "held" : "failed");

/** A rank correlation in words that claim no more than it does. */
export function correlationWords(agreement) {
  if (agreement >= 0.7) return "strong";
  if (agreement >= 0.3) return "weak";
  return agreement <= -0.3 ? "none: it is negative" : "none";
}
