import { useRef } from 'preact/hooks';
import type { FileStatus, StoredFile } from '../api.js';
import { connection } from '../connection.js';
import { durationText, shortTimeText, sizeText, timeText } from '../format.js';
import { Icon, IconButton } from '../icon.js';
import type { UploadRow, Uploads } from '../uploads/store.js';
import { isActive } from './store.js';

/* The rows of the list. All have the same height and the same columns: a picture, a name over a line of facts, and actions. */

/** Where the row stands in the whole list, for screen readers. */
interface Place {
  'aria-setsize': number;
  'aria-posinset': number;
}

/** The word that users see for a status. */
export const STATUS_WORDS: Record<FileStatus, string> = {
  pending: 'Waiting',
  processing: 'Processing',
  completed: 'Completed',
  failed: 'Failed',
  infected: 'Infected',
  paused: 'Paused',
  canceled: 'Canceled',
};

/** What has been done, in the order in which it is done. */
const DONE_WORDS: [step: string, words: string][] = [
  ['verify', 'bytes checked'],
  ['sniff', 'type recognised'],
  ['scan', 'scanned for malware'],
  ['metadata', 'metadata read'],
  ['thumbnails', 'thumbnails made'],
  ['document', 'document read'],
  ['media', 'tags read'],
  ['preview', 'previews made'],
];

export function UploadingRow({
  upload,
  uploads,
  place,
}: {
  upload: UploadRow;
  uploads: Uploads;
  place: Place;
}) {
  const { key, name, state, size, sent } = upload;
  const again = useRef<HTMLInputElement>(null);
  const percent = size > 0 ? Math.min(100, Math.round((100 * sent) / size)) : 0;
  const isOpen = state !== 'refused';
  return (
    <li class="file" data-key={key} data-upload={state} {...place}>
      <Picture name={name} />
      <div class="about">
        <p class="name" title={name}>
          {name}
        </p>
        <p
          class={state === 'refused' || state === 'lost' ? 'facts bad' : 'facts'}
          title={uploadFacts(upload)}
        >
          {uploadFacts(upload)}
        </p>
      </div>
      <div class="actions">
        {(state === 'sending' || state === 'waiting') && (
          <IconButton icon="pause" label={`Pause ${name}`} onClick={() => uploads.pause(key)} />
        )}
        {state === 'paused' && (
          <IconButton icon="resume" label={`Resume ${name}`} onClick={() => uploads.resume(key)} />
        )}
        {state === 'failed' && (
          <IconButton icon="retry" label={`Retry ${name}`} onClick={() => uploads.resume(key)} />
        )}
        {state === 'lost' && (
          <>
            <IconButton icon="choose" label={`Choose ${name} again`} onClick={() => again.current?.click()} />
            <input
              ref={again}
              type="file"
              hidden
              onChange={({ currentTarget: { files } }) => files?.[0] && uploads.chooseAgain(key, files[0])}
            />
          </>
        )}
        {state === 'refused' && upload.canRetry && (
          <IconButton icon="retry" label={`Retry ${name}`} onClick={() => uploads.retry(key)} />
        )}
        {state !== 'arriving' && (
          <IconButton
            icon="cancel"
            label={isOpen ? `Cancel ${name}` : `Dismiss ${name}`}
            onClick={() => uploads.cancel(key)}
          />
        )}
      </div>
      {isOpen && <Progress label={`Upload of ${name}`} percent={percent} />}
    </li>
  );
}

function uploadFacts({ state, size, sent, rate, secondsLeft, problem }: UploadRow): string {
  if (problem) return problem;
  const part = `${sizeText(sent)} of ${sizeText(size)}`;
  switch (state) {
    case 'waiting':
      return `${sizeText(size)} · Waiting to be sent`;
    case 'paused':
      return `${part} · Paused`;
    case 'arriving':
      return `${sizeText(size)} · Sent`;
    case 'lost':
      return `${part} sent. Choose the file again to go on.`;
    case 'failed':
      return `${part} · Interrupted`;
    default:
      if (connection.value.state !== 'online') return `${part} · Waiting for the connection`;
      if (secondsLeft === undefined) return part;
      return `${part} · ${sizeText(rate)}/s · ${durationText(secondsLeft)} left`;
  }
}

export function FileRow({
  file,
  onRemove,
  place,
}: {
  file: StoredFile;
  onRemove: (file: StoredFile) => void;
  place: Place;
}) {
  const { filename, status, links } = file;
  return (
    <li class="file" data-id={file.id} data-status={status} {...place}>
      <Picture name={filename} source={links.thumbnails?.small} />
      <div class="about">
        <p class="name" title={filename}>
          {filename}
        </p>
        <p class="facts" title={[timeText(file.createdAt), ...messagesOf(file)].join('\n')}>
          {status !== 'completed' && <span class="badge">{STATUS_WORDS[status]}</span>}
          {factsOf(file)}
        </p>
      </div>
      <div class="actions">
        {links.content !== null && (
          <a
            class="button quiet icon-button"
            href={`${links.content}${links.content.includes('?') ? '&' : '?'}download=1`}
            aria-label={`Download ${filename}`}
            title={`Download ${filename}`}
          >
            <Icon name="download" />
          </a>
        )}
        <IconButton icon="delete" label={`Delete ${filename}`} onClick={() => onRemove(file)} />
      </div>
      {(isActive(file) || status === 'paused') && (
        <Progress label={`Processing of ${filename}`} percent={Math.round(file.progress)} />
      )}
    </li>
  );
}

function factsOf(file: StoredFile): string {
  const messages = messagesOf(file);
  if (file.error) return messages.join(' ');
  const parts = [sizeText(file.size), shortTimeText(file.createdAt)];
  if (isActive(file)) parts.push(doneText(file));
  return [...parts, ...messages].filter((part) => part !== '').join(' · ');
}

/** The last step that is done. */
function doneText({ steps }: StoredFile): string {
  return DONE_WORDS.findLast(([step]) => steps[step]?.state === 'done')?.[1] ?? '';
}

function messagesOf({ error, warnings, duplicateOf }: StoredFile): string[] {
  return [
    ...(error ? [error.detail || 'The processing has failed.'] : []),
    ...warnings.map(({ code, detail }) => detail || code),
    ...(duplicateOf ? ['You have this content already.'] : []),
  ];
}

function Picture({ name, source }: { name: string; source?: string | undefined }) {
  return (
    <div class="thumb" aria-hidden="true">
      <span class="kind">{/\.([a-z0-9]{1,4})$/i.exec(name)?.[1]?.toUpperCase() ?? ''}</span>
      {source && (
        <img
          src={source}
          alt=""
          loading="lazy"
          onError={(event) => {
            event.currentTarget.hidden = true;
          }}
        />
      )}
    </div>
  );
}

function Progress({ label, percent }: { label: string; percent: number }) {
  return (
    <div
      class="progress"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
    >
      <div style={{ width: `${percent}%` }} />
    </div>
  );
}
