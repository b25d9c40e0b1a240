// Where the story's picture puts things: positions from left to right, layers from the bottom up.

const LEFT = 30;
const BESIDE = 62; // the column of what is at no position
const TOP = 16;
const FOOT = 74; // the room for tokens, set aslant
const MOST = 22; // columns, before those that nothing happens at are left out
const NAME = 11; // the height of a name

/** {x(pos), y(layer), step, height, left, beside, foot, shown, marks, names} of a story in so many pixels. */
export function flowLayout(story, count, width) {
  const layers = story.n_layers;
  const step = Math.max(9, Math.min(46, 380 / (layers + 1)));
  const height = TOP + step * (layers + 1) + FOOT;
  const shown = columns(story, count, width);
  const gap = (width - LEFT - BESIDE) / shown.length;
  const x = (pos) => LEFT + gap * (shown.indexOf(pos) + 0.5);
  const y = (layer) => TOP + step * (layers - layer + 0.5);
  const every = Math.ceil(layers / 8);
  const marks = Array.from({ length: layers + 1 }, (_, layer) => layer).filter((layer) => layer % every === 0);
  const beside = width - BESIDE / 2 + 16;
  const place = (one) => (one.at === null ? beside : x(one.at));
  return { x, y, step, height, left: LEFT, beside, foot: height - FOOT + 14, shown, marks, names: names(story, place, y, step) };
}

/** All positions while they fit, else those at which something happens. */
function columns(story, count, width) {
  const most = Math.max(6, Math.min(MOST, Math.floor((width - LEFT - BESIDE) / 17)));
  const all = Array.from({ length: count }, (_, i) => i);
  if (count <= most) return all;
  const changed = story.counterfactual.changes.flatMap((change) => change.pos);
  const used = new Set([count - 1, ...changed, ...story.hops.map((hop) => hop.pos)]);
  for (const one of story.parts) {
    if (one.at !== null) used.add(one.at);
    for (const look of one.looks) used.add(look.pos);
  }
  return all.filter((pos) => used.has(pos));
}

/** Names left of their dots, the largest parts first, where none stands in another's place. */
function names(story, place, y, step) {
  const taken = [];
  for (const one of story.parts) {
    const at = { x: place(one) - 10, y: y(one.layer) - step / 2 + 4, text: one.name };
    const free = taken.every((other) => Math.abs(other.y - at.y) >= NAME || Math.abs(other.x - at.x) >= 46);
    if (free) taken.push(at);
  }
  return taken;
}
