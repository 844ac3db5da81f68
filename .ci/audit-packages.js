// Asks the registry for known vulnerabilities (high or critical) of the packages that are shipped, and fails if there
// are any. Where the registry cannot be asked, as behind many mirrors, it says so and does not fail.
import { spawnSync } from 'node:child_process';

const args = ['audit', '--omit=dev', '--audit-level=high', '--json', '--fetch-retries=0'];
const npm = spawnSync('npm', args, { encoding: 'utf8', maxBuffer: 64 * 1024 ** 2 });

/** @type {any} */
let report;
try {
  report = JSON.parse(npm.stdout);
} catch {
  console.error(`npm audit did not answer in JSON:\n${npm.error?.message ?? npm.stderr}`);
  process.exit(1);
}

if (report.auditReportVersion === 2) {
  /** @type {any[]} */
  const found = Object.values(report.vulnerabilities).filter(({ severity }) =>
    ['high', 'critical'].includes(severity),
  );
  for (const { name, severity, via } of found) {
    /** @type {string[]} */
    const reasons = via.map((/** @type {any} */ one) =>
      typeof one === 'string' ? `through ${one}` : `${one.title} (${one.url})`,
    );
    console.error(`${severity}: ${name}: ${reasons.join('; ')}`);
  }
  if (found.length === 0)
    console.log('No known vulnerability, high or critical, in the packages that are shipped.');
  process.exitCode = found.length === 0 ? 0 : 1;
} else if (typeof report.message === 'string') {
  console.warn('************************************************************************');
  console.warn('NOT CHECKED: the registry could not be asked for known vulnerabilities.');
  console.warn(report.message);
  console.warn('************************************************************************');
} else {
  console.error(`npm audit answered something else:\n${npm.stdout.slice(0, 1000)}`);
  process.exitCode = 1;
}
