// What is being looked at, kept in the address after #, so that a link leads back to it.

export const START = { prompt: "", target: "", foil: "", corrupt: "", changes: [], view: "", layer: "", head: "", dictionary: "", task: "", seed: "" };

export function readState() {
  try {
    const held = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    const texts = Object.keys(START).filter((name) => [START, held].every((one) => typeof one[name] === "string"));
    const changes = Array.isArray(held.changes) ? held.changes.filter((change) => change && typeof change === "object") : [];
    return { ...START, ...Object.fromEntries(texts.map((name) => [name, held[name]])), changes };
  } catch {
    return { ...START };
  }
}

export function keepState(state) {
  const said = Object.entries(state).filter(([, value]) => value.length);
  history.replaceState(null, "", said.length ? `#${encodeURIComponent(JSON.stringify(Object.fromEntries(said)))}` : "#");
}

/** The form of a question about an answer: what is empty is left to the server. */
export const contrast = ({ prompt, target, foil }) =>
  Object.fromEntries(Object.entries({ prompt, target, foil }).filter(([, text]) => text));

/** What people call a changed part. */
export function changeName({ part, layer, head, unit, dictionary, direction }) {
  if (part === "head") return `L${layer}H${head}`;
  if (part === "neuron") return `L${layer}N${unit}`;
  if (part === "feature") return `${dictionary} ${unit}`;
  if (part === "direction") return `${direction}`;
  return part === "mlp" ? `MLP ${layer}` : `attention ${layer}`;
}
