import { benchFilesList } from './files-list.js';
import { benchLiveEvents } from './live-events.js';
import { benchParallelUploads } from './parallel-uploads.js';
import { benchProcessing } from './processing.js';
import { benchS3Download } from './s3-download.js';
import { benchS3Large } from './s3-large.js';
import { benchS3Many } from './s3-many.js';
import { benchS3Resume } from './s3-resume.js';
import { benchS3Slow } from './s3-slow.js';
import { benchS3Small } from './s3-small.js';
import { benchThroughput } from './throughput.js';
import { benchUpload } from './upload.js';
import { benchVariants } from './variants.js';

/*
 * Each figure stands beside that of another program that ran in turns with Landfall: only the ratios mean something. The
 * column `aim` says whether Landfall meets its aim. An argument chooses the benches whose names begin with it: `s3` chooses all the benches of S3.
 */
const benches: Record<string, () => Promise<Record<string, string>[]>> = {
  upload: benchUpload,
  processing: benchProcessing,
  variants: benchVariants,
  throughput: benchThroughput,
  'parallel-uploads': benchParallelUploads,
  'live-events': benchLiveEvents,
  'files-list': benchFilesList,
  's3-large': benchS3Large,
  's3-small': benchS3Small,
  's3-resume': benchS3Resume,
  's3-slow': benchS3Slow,
  's3-many': benchS3Many,
  's3-download': benchS3Download,
};

// On Node 20 the SDK would warn in every process that its support for this Node ends.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true';

const names = Object.keys(benches);
const wanted = process.argv.slice(2);
const unknown = wanted.find((prefix) => !names.some((name) => name.startsWith(prefix)));
if (unknown) throw new Error(`no bench is called ${unknown}; there are ${names.join(', ')}`);
for (const [name, bench] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.some((prefix) => name.startsWith(prefix))) continue;
  console.log(`\n${name}`);
  console.table(await bench());
}
