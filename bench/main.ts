import { benchProcessing } from './processing.js';
import { benchUpload } from './upload.js';

/* Each number stands beside that of a bare program which ran in turns with it: only the ratios mean something. */
const benches: Record<string, () => Promise<Record<string, string>[]>> = {
  upload: benchUpload,
  processing: benchProcessing,
};

const chosen = process.argv.slice(2);
const names = chosen.length > 0 ? chosen : Object.keys(benches);
for (const name of names) {
  const bench = benches[name];
  if (!bench) throw new Error(`no bench is called ${name}; there are ${Object.keys(benches).join(', ')}`);
  console.log(`\n${name}`);
  console.table(await bench());
}
