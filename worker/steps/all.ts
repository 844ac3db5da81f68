import type { DataSource } from 'typeorm';
import { type Config, requireConnected } from '../../core/config.js';
import { createDelivery } from '../../core/delivery/deliver.js';
import { getFile } from '../../core/files/queries.js';
import type { Logger } from '../../core/log.js';
import type { Parsers } from '../../core/media/parsers.js';
import { deriveAnswerKey } from '../../core/own-steps/token.js';
import type { Scanner } from '../../core/scanning/scanner.js';
import { deriveLinkKey } from '../../core/signed-path.js';
import type { Storage } from '../../core/storage/storage.js';
import type { DerivativeStore } from '../content.js';
import type { Ffmpeg } from '../ffmpeg/run.js';
import { loadOwnSteps } from '../own-steps/load.js';
import { createDeliverStep } from './deliver.js';
import { createDocumentStep } from './document.js';
import { createMediaStep } from './media.js';
import { createMetadataStep } from './metadata.js';
import { createOptimizeStep } from './optimize.js';
import { createPreviewStep } from './preview.js';
import { createScanStep } from './scan.js';
import { createSniffStep } from './sniff.js';
import type { Step, Steps } from './step.js';
import { createThumbnailsStep } from './thumbnails.js';
import { createVerifyStep } from './verify.js';

/** Warning about a target of DELIVER_TO. */
const COLLISIONS =
  'files may have the same key at this target, and all but the first get their id as a suffix: use {id} or {sha256}';

interface StepDeps {
  database: DataSource;
  storage: Storage;
  config: Readonly<Config>;
  /** The environment, of which the operator's steps may name variables. */
  env: NodeJS.ProcessEnv;
  parsers: Parsers;
  parserCount: number;
  scanner: Scanner;
  ffmpeg: Ffmpeg | undefined;
  derivatives: DerivativeStore;
  log: Logger;
}

/**
 * All steps in their order: ours, then the operator's, and delivery at the end.
 * @throws {ConfigError} when a step of the operator's is not what it should be
 */
export async function openSteps(deps: StepDeps): Promise<Steps> {
  const { config, parsers, scanner, ffmpeg, derivatives, parserCount } = deps;
  const { maxImagePixels, maxSizeByType, optimize } = config;
  const reading = [
    createVerifyStep(),
    createSniffStep({ parsers, maxSizeByType }),
    createScanStep({ scanner, oversize: config.clamav?.oversize ?? 'fail' }),
  ];
  const decoding: Step[] = [
    createMetadataStep(),
    createThumbnailsStep({ derivatives }),
    createDocumentStep({ derivatives }),
    createOptimizeStep({ derivatives, optimize }),
    createMediaStep({ derivatives }),
    createPreviewStep({ derivatives, parsers, ffmpeg, count: parserCount, maxImagePixels }),
  ];
  const delivery = createDeliverySteps(deps);
  const taken = [...reading, ...decoding, ...delivery].map(({ name }) => name);
  const own = await loadOperatorsSteps(deps, taken);
  return { reading, decoding: [...decoding, ...own, ...delivery] };
}

function createDeliverySteps({ database, storage, config, log }: StepDeps): Step[] {
  const { delivery, s3 } = config;
  if (!delivery) return [];
  for (const { target } of delivery.rules) {
    if (target?.path.mayCollide) log.warn({ target: target.text }, COLLISIONS);
  }
  return [createDeliverStep(createDelivery({ database, storage, config: delivery, s3, log }))];
}

function loadOperatorsSteps(
  { database, config, env, parsers, derivatives, log }: StepDeps,
  taken: string[],
): Promise<Step[]> {
  const { jwtSecret } = requireConnected(config);
  return loadOwnSteps({
    config,
    env,
    taken,
    parsers,
    derivatives,
    readFile: (id) => getFile(database, id),
    linkKey: deriveLinkKey(jwtSecret),
    answerKey: deriveAnswerKey(jwtSecret),
    log,
  });
}
