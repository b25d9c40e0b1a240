// What is being looked at, kept in the address after #, so that a link leads back to it.

export const START = {
  prompt: "", target: "", foil: "", corrupt: "", changes: [], view: "", layer: "", head: "", dictionary: "",
  depth: "", methods: "", units: "", nodes: "", task: "", count: "", seed: "", lines: "", unlinked: "",
  sort: "", search: "", slices: [], unit: "", pos: "", key: "", writers: "",
};
const TEXTS = Object.keys(START).filter((name) => START[name] === "");

/** Characters of the address that pasted lines may take; `unlinked` says how many characters there were of longer ones. */
export const MOST_OF_ADDRESS = 16_000;

const AMOUNT = { head: "factor", attention: "factor", mlp: "factor", neuron: "factor", feature: "factor", direction: "strength" };

const started = () => ({ ...START, changes: [], slices: [] });

/** The state of an address, with what of it cannot be read, in words. */
export function readState(hash = location.hash) {
  if (hash.length < 2) return { state: started(), problems: [] };
  let held;
  try {
    held = JSON.parse(decodeURIComponent(hash.slice(1)));
  } catch {
    held = null;
  }
  if (held === null || typeof held !== "object" || Array.isArray(held)) {
    return { state: started(), problems: ["The address after # is none that this page writes: it was cut short, or is of another page."] };
  }
  const problems = [];
  const state = started();
  for (const [name, value] of Object.entries(held)) {
    if (name === "changes" && Array.isArray(value)) {
      state.changes = value.filter(isChange);
      for (const other of value.filter((one) => !isChange(one))) problems.push(`The link has a change that is none: ${JSON.stringify(other).slice(0, 120)}.`);
    } else if (name === "slices" && Array.isArray(value) && value.every(isSlice)) state.slices = value;
    else if (TEXTS.includes(name) && typeof value === "string") state[name] = value;
    else problems.push(`The link says “${name.slice(0, 60)}” in a way that is not known here.`);
  }
  return { state, problems };
}

const isChange = (one) => one !== null && typeof one === "object" && Object.hasOwn(AMOUNT, one.part) && Number.isFinite(one[AMOUNT[one.part]]);

const isSlice = (one) => Array.isArray(one) && one.length === 2 && one.every((text) => typeof text === "string");

/** Whether pasted lines are longer than an address may have of them. */
export const tooLong = (lines) => encodeURIComponent(JSON.stringify(lines)).length > MOST_OF_ADDRESS;

/** What the address has of a state. */
export function addressOf(state) {
  const held = tooLong(state.lines) ? { ...state, lines: "", unlinked: String(state.lines.length) } : state;
  const said = Object.entries(held).filter(([, value]) => value.length);
  return said.length ? `#${encodeURIComponent(JSON.stringify(Object.fromEntries(said)))}` : "#";
}

export const keepState = (state) => history.replaceState(null, "", addressOf(state));

/** What is wrong with a number that a link gives, in words; nothing where it is left out, or from 0 to below `count`. */
export const noNumber = (what, text, count) =>
  text === "" || (/^\d{1,9}$/.test(text) && Number(text) < count) ? "" : `There is no ${what} ${text.slice(0, 40)} here: choose one of 0 to ${count - 1}.`;

/** What is wrong with a name that a link gives, in words; nothing where it is left out, or one of `names`. */
export const noName = (what, text, names) =>
  text === "" || names.includes(text) ? "" : `There is no ${what} “${text.slice(0, 60)}” here${names.length ? ": choose another" : ""}.`;

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
