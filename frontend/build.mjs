// Bundles every page's script and style sheet into the Python package, where they are read as package data.
// A page is a file of src/pages: NAME.js draws the document, NAME.css is its own sheet beside kit/page.css.
// `npm run build`, or `node build.mjs FOLDER` to put the bundles elsewhere.
import { build } from "esbuild";
import { readFile, readdir, writeFile } from "node:fs/promises";
import { basename, dirname, extname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? resolve(here, "../src/caseback/views/static"));
const largest = 150 * 1024;

const files = (await readdir(resolve(here, "src/pages"))).sort();
const named = (extension) => files.filter((file) => extname(file) === extension).map((file) => basename(file, extension));
const scripts = named(".js");
const sheets = named(".css");

const shared = {
  absWorkingDir: here,
  outdir: out,
  bundle: true,
  minify: true,
  // ASCII only: the page then reads the same whatever encoding a server or a mail client guesses.
  charset: "ascii",
  legalComments: "none",
  // packages are told by their place under node_modules, also where that is a link: their licences go in with them
  preserveSymlinks: true,
};

await build({
  ...shared,
  entryPoints: { page: "src/kit/page.css", ...Object.fromEntries(sheets.map((name) => [name, `src/pages/${name}.css`])) },
});
for (const name of scripts) {
  const { metafile } = await build({
    ...shared,
    entryPoints: { [name]: `src/pages/${name}.js` },
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

for (const page of scripts) {
  let total = 0;
  for (const name of [`${page}.js`, "page.css", ...(sheets.includes(page) ? [`${page}.css`] : [])]) {
    const { length } = await readFile(resolve(out, name));
    total += length;
    console.log(`${page}: ${name}  ${(length / 1024).toFixed(1)} kB`);
  }
  if (total > largest) {
    console.error(`The ${page} page has ${total} bytes of script and style; at most ${largest} may go into every page.`);
    process.exit(1);
  }
}
