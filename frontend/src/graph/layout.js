// Where nodes stand: a row a layer, the lowest first, a column a position, and nodes of one place side by side.

const LEFT = 46; // room for the layers' names
const RIGHT = 18;
const TOP = 30;
const LOGITS = 20; // between logits, whose names stand at a slant
const NAMES = 44; // and above, for the names of several logits
const BOTTOM = 74; // room for the tokens
const NARROWEST = 26; // a column
const TALLEST = 1150; // of all rows, unless lines would be closer than that
const PITCH = [9, 13]; // between lines of nodes, from the closest to the widest
const BETWEEN = [1.1, 3.6]; // lines left free between rows
const LOWEST = 430; // of all rows, if there is so much to leave free
const ALL_COLUMNS = 40; // of a longer prompt only positions from which something is shown have a column

// In a row of streams the one after attention stands lowest, the MLP above it to the side, the one after both on top.
const LEVELS = { stream_mid: 0, mlp: 1, stream: 2 };

/** {x, y} per node (NaN where not shown), columns [{pos, x, width}], rows [{layer, y}], width, height, pitch. */
export function layout({ nodes, size }, drawn, nTokens, room) {
  const cells = new Map();
  const used = new Set();
  for (let i = 0; i < size; i++) {
    if (!drawn.nodes[i]) continue;
    const pos = nodes.pos[i] ?? -1;
    if (drawn.reached[i] || nodes.kind[i] !== "embed") used.add(pos);
    const key = `${nodes.layer[i]} ${pos}`;
    if (!cells.has(key)) cells.set(key, new Map());
    const level = LEVELS[nodes.kind[i]] ?? 0;
    const cell = cells.get(key);
    if (!cell.has(level)) cell.set(level, []);
    cell.get(level).push(i);
  }
  const anywhere = nodes.pos.some((pos) => pos !== null && pos >= 0); // a circuit of all positions needs no tokens
  const positions = [...(used.has(-1) ? [-1] : []), ...Array.from({ length: nTokens }, (_, pos) => pos).filter((pos) => (nTokens <= ALL_COLUMNS && anywhere) || used.has(pos))];
  const layers = [...new Set([...cells.keys()].map((key) => Number(key.split(" ")[0])))].sort((a, b) => a - b);

  // as wide as its fullest cell asks for, if there is room for all
  const apart = (i) => (nodes.kind[i] === "logits" ? LOGITS : PITCH[1]);
  const full = (pos) => Math.max(PITCH[1], ...layers.flatMap((layer) => [...(cells.get(`${layer} ${pos}`)?.values() ?? [])].map((list) => list.length * apart(list[0]))));
  const asked = positions.map((pos) => 10 + full(pos));
  // logits have names, so they stand in one line as long as there are few
  const logits = (pos) => layers.reduce((sum, layer) => sum + ([...(cells.get(`${layer} ${pos}`)?.values() ?? [])].flat().filter((i) => nodes.kind[i] === "logits").length), 0);
  const least = positions.map((pos) => Math.max(NARROWEST, Math.min(6, logits(pos)) * LOGITS));
  const sumLeast = least.reduce((a, b) => a + b, 0);
  const inner = Math.max(room - LEFT - RIGHT, sumLeast);
  const sum = asked.reduce((a, b) => a + b, 0);
  const over = asked.map((width, c) => Math.max(0, width - least[c]));
  const sumOver = over.reduce((a, b) => a + b, 0) || 1;
  const spare = inner - sumLeast;
  const widths = asked.map((width, c) => (sum <= inner ? width + (inner - sum) / positions.length : least[c] + (spare * over[c]) / sumOver));
  const columns = [];
  let left = LEFT;
  positions.forEach((pos, c) => {
    columns.push({ pos, x: left + widths[c] / 2, width: widths[c] });
    left += widths[c];
  });

  const perLine = (width) => Math.max(1, Math.floor((width - 6) / (0.8 * PITCH[1])));
  const linesOf = layers.map((layer) => {
    const lines = [];
    columns.forEach(({ pos, width }) => {
      for (const [level, list] of cells.get(`${layer} ${pos}`) ?? []) lines[level] = Math.max(lines[level] ?? 0, Math.ceil(list.length / perLine(width)));
    });
    return Array.from(lines, (count) => count ?? 0);
  });
  const lines = linesOf.flat().reduce((a, b) => a + b, 0);
  const between = Math.max(BETWEEN[0], Math.min(BETWEEN[1], (LOWEST / PITCH[1] - lines) / layers.length));
  const total = lines + between * layers.length;
  const pitch = Math.max(PITCH[0], Math.min(PITCH[1], TALLEST / total));
  const several = drawn.nodes.reduce((sum, on, i) => sum + (on && nodes.kind[i] === "logits" ? 1 : 0), 0) > 1;
  const height = TOP + (several ? NAMES : 0) + BOTTOM + total * pitch;
  const [x, y] = [new Float32Array(size).fill(NaN), new Float32Array(size).fill(NaN)];
  const rows = [];
  let bottom = height - BOTTOM;
  layers.forEach((layer, r) => {
    const levels = linesOf[r];
    const tall = levels.reduce((a, b) => a + b, 0) * pitch;
    rows.push({ layer, y: bottom - tall / 2 });
    const from = levels.map((_, level) => levels.slice(0, level).reduce((a, b) => a + b, 0));
    for (const column of columns) {
      for (const [level, list] of cells.get(`${layer} ${column.pos}`) ?? []) {
        list.sort((a, b) => nodes.share[a] - nodes.share[b]);
        const most = perLine(column.width);
        list.forEach((i, at) => {
          const line = Math.floor(at / most);
          const here = Math.min(most, list.length - line * most);
          const step = Math.min(apart(i), (column.width - 6) / here);
          const aside = nodes.kind[i] === "mlp" && levels.length > 1 ? 0.85 * pitch : 0;
          x[i] = column.x + aside + ((at % most) - (here - 1) / 2) * step;
          y[i] = bottom - (from[level] + line + 0.5) * pitch;
        });
      }
    }
    bottom -= tall + between * pitch;
  });
  return { x, y, columns, rows, width: left + RIGHT, height, pitch, foot: height - BOTTOM };
}
