// Bundles src/main.js and src/report.css into the Python package, where the report reads them as package data.
import { build } from "esbuild";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(here, "../src/caseback/views/static");
const largest = 150 * 1024;

const shared = {
  absWorkingDir: here,
  outdir: out,
  bundle: true,
  minify: true,
  // ASCII only: the page then reads the same whatever encoding a server or a mail client guesses.
  charset: "ascii",
  legalComments: "none",
};

const { metafile } = await build({
  ...shared,
  entryPoints: { report: "src/main.js" },
  format: "iife",
  target: ["chrome100", "firefox113", "safari16.4"],
  metafile: true,
});
await build({ ...shared, entryPoints: { report: "src/report.css" } });
await writeFile(
  resolve(out, "report.js"),
  (await notices(metafile)) + (await readFile(resolve(out, "report.js"), "utf8")),
);

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

let total = 0;
for (const name of ["report.js", "report.css"]) {
  const { length } = await readFile(resolve(out, name));
  total += length;
  console.log(`${name}  ${(length / 1024).toFixed(1)} kB`);
}
if (total > largest) {
  console.error(`The bundle has ${total} bytes; at most ${largest} may go into every report.`);
  process.exit(1);
}
