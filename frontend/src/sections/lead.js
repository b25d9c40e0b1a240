// From where the answer is settled.

/** The first row from which the logit difference stays above zero to the end; null where it ends at or below zero. */
export function leadsFrom(differences) {
  const lastBehind = differences.findLastIndex((difference) => difference <= 0);
  return lastBehind === differences.length - 1 ? null : lastBehind + 1;
}
