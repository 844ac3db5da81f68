import { countText, durationText, sizeText } from '../format.js';
import type { Uploads } from '../uploads/store.js';

/** All uploads together: how far they are, and what can be done with all of them. */
export function UploadSummary({ uploads }: { uploads: Uploads }) {
  const open = uploads.rows.value.filter(({ state }) => state !== 'refused' && state !== 'arriving');
  if (open.length < 2) return null;
  const sent = open.reduce((sum, row) => sum + row.sent, 0);
  const size = open.reduce((sum, row) => sum + row.size, 0);
  const rate = open.reduce((sum, row) => sum + row.rate, 0);
  const canPause = open.some(({ state }) => state === 'sending' || state === 'waiting');
  const canResume = open.some(({ state }) => state === 'paused' || state === 'failed');
  return (
    <div class="summary">
      <p>
        {countText(open.length, 'upload')}, {sizeText(sent)} of {sizeText(size)}
        {rate > 0 && ` · ${sizeText(rate)}/s · ${durationText((size - sent) / rate)} left`}
      </p>
      <div class="actions">
        {canPause && (
          <button type="button" class="quiet" onClick={() => uploads.pauseAll()}>
            Pause all
          </button>
        )}
        {canResume && (
          <button type="button" class="quiet" onClick={() => uploads.resumeAll()}>
            Resume all
          </button>
        )}
        <button type="button" class="quiet" onClick={() => uploads.cancelAll()}>
          Cancel all
        </button>
      </div>
    </div>
  );
}
