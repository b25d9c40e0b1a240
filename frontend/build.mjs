// Bundles the pages' scripts and style sheets into the Python package, where they are read as package data.
import { build } from "esbuild";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(here, "../src/caseback/views/static");
const largest = 150 * 1024;
// A page's script, and the style sheets that it is written with.
const pages = { report: ["report"], circuit: ["report", "circuit"] };
const scripts = { report: "src/main.js", circuit: "src/circuit_main.js" };

const shared = {
  absWorkingDir: here,
  outdir: out,
  bundle: true,
  minify: true,
  // ASCII only: the page then reads the same whatever encoding a server or a mail client guesses.
  charset: "ascii",
  legalComments: "none",
};

await build({ ...shared, entryPoints: { report: "src/report.css", circuit: "src/circuit.css" } });
for (const [name, entry] of Object.entries(scripts)) {
  const { metafile } = await build({
    ...shared,
    entryPoints: { [name]: entry },
    format: "iife",
    target: ["chrome100", "firefox113", "safari16.4"],
    metafile: true,
  });
  const file = resolve(out, `${name}.js`);
  await writeFile(file, (await notices(metafile)) + (await readFile(file, "utf8")));
}

// The licence of every package whose code went in, as those licences ask; packages of one licence text share it.
async function notices({ outputs }) {
  const used = Object.values(outputs).flatMap(({ inputs }) => Object.entries(inputs));
  const names = new Set(
    used
      .filter(([path, { bytesInOutput }]) => bytesInOutput && path.startsWith("node_modules/"))
      .map(([path]) => path.split("/")[1]),
  );
  const byText = new Map();
  for (const name of [...names].sort()) {
    const text = (await readFile(resolve(here, "node_modules", name, "LICENSE"), "utf8")).trim();
    const [first, ...rest] = text.split("\n");
    const body = rest.join("\n").trim();
    byText.set(body, [...(byText.get(body) ?? []), `${name}: ${first}`]);
  }
  return [...byText]
    .map(([body, heads]) => `/*\n${heads.join("\n")}\n\n${body}\n*/\n`)
    .join("")
    .replace(/[^\x00-\x7f]/g, "?");
}

for (const [page, sheets] of Object.entries(pages)) {
  let total = 0;
  for (const name of [`${page}.js`, ...sheets.map((sheet) => `${sheet}.css`)]) {
    const { length } = await readFile(resolve(out, name));
    total += length;
    console.log(`${page}: ${name}  ${(length / 1024).toFixed(1)} kB`);
  }
  if (total > largest) {
    console.error(`The ${page} bundle has ${total} bytes; at most ${largest} may go into every page.`);
    process.exit(1);
  }
}
