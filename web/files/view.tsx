import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { Api, StoredFile } from '../api.js';
import { explain } from '../api-error.js';
import { type ChosenFile, chosenIn, filesIn, holdsFiles } from '../uploads/chosen.js';
import type { UploadRow, Uploads } from '../uploads/store.js';
import { Banner } from './banner.js';
import { FileRow, UploadingRow } from './rows.js';
import type { Files } from './store.js';
import { UploadSummary } from './summary.js';
import { type Toast, ToastBar } from './toast.js';
import { useWindow } from './window.js';

/* Uploads and files, in one list: the newest on top. */

interface Props {
  api: Api;
  files: Files;
  uploads: Uploads;
}

export function FilesView({ api, files, uploads }: Props) {
  const toast = useSignal<Toast | undefined>(undefined);
  const list = useRef<HTMLUListElement>(null);
  // A file may be listed before the page has the answer to the last request of its upload.
  const known = new Set(files.list.value.map(({ id }) => id));
  const isOnItsWay = ({ fileId }: UploadRow) => fileId === undefined || !known.has(fileId);
  const rows = [
    ...uploads.rows.value.filter(isOnItsWay).map((upload) => ({ key: upload.key, upload })),
    ...files.list.value.map((file) => ({ key: file.id, file })),
  ];
  const shown = useWindow(list, rows.length);
  const isNearEnd = shown.end >= rows.length;
  useEffect(() => {
    if (isNearEnd && files.hasMore.value) files.loadMore();
  }, [isNearEnd, rows.length]);

  async function remove(file: StoredFile): Promise<void> {
    try {
      await files.remove(file.id);
      toast.value = { text: `Deleted ${file.filename}`, action: 'Undo', act: () => void restore(file) };
    } catch (error) {
      toast.value = { text: explain(error) };
    }
  }

  async function restore(file: StoredFile): Promise<void> {
    try {
      await api.post(`/api/files/${encodeURIComponent(file.id)}/restore`, {});
      void files.look(file.id);
      toast.value = { text: `${file.filename} is back` };
    } catch (error) {
      toast.value = { text: explain(error) };
    }
  }

  const isEmpty = files.isKnown.value && rows.length === 0;
  return (
    <>
      <Banner />
      <section aria-label="Upload" class="upload-bar">
        <DropTarget onFiles={(chosen) => uploads.add(chosen)} />
        <p class="note" role="status">
          {uploads.note}
        </p>
      </section>
      <section aria-labelledby="files-title">
        <div class="section-head">
          <h2 id="files-title" tabIndex={-1}>
            Your files
          </h2>
          <p class="problem" role="status">
            {files.problem}
          </p>
        </div>
        <UploadSummary uploads={uploads} />
        {isEmpty && <p class="empty">Nothing here yet. What you upload appears here.</p>}
        <ul
          ref={list}
          class="files"
          style={{ paddingTop: `${shown.above}px`, paddingBottom: `${shown.below}px` }}
        >
          {rows.slice(shown.start, shown.end).map((row, index) => {
            const place = { 'aria-setsize': rows.length, 'aria-posinset': shown.start + index + 1 };
            return 'upload' in row ? (
              <UploadingRow key={row.key} upload={row.upload} uploads={uploads} place={place} />
            ) : (
              <FileRow key={row.key} file={row.file} onRemove={remove} place={place} />
            );
          })}
        </ul>
        <p class="visually-hidden" aria-live="polite">
          {files.news}
        </p>
      </section>
      <ToastBar toast={toast} />
    </>
  );
}

/** The whole page takes what is dropped or pasted; the buttons do the same for people who choose. */
function DropTarget({ onFiles }: { onFiles: (files: ChosenFile[]) => void }) {
  const isOver = useSignal(false);
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);

  useEffect(() => {
    // The types of JSX do not know this attribute (File and Directory Entries API).
    folder.current?.setAttribute('webkitdirectory', '');
    const stop = new AbortController();
    const listen = <K extends keyof WindowEventMap>(type: K, handle: (event: WindowEventMap[K]) => void) =>
      window.addEventListener(type, handle, { signal: stop.signal });
    listen('dragover', (event) => {
      if (!holdsFiles(event.dataTransfer)) return;
      event.preventDefault();
      isOver.value = true;
    });
    listen('dragleave', (event) => {
      // Null: the pointer has left the window.
      if (event.relatedTarget === null) isOver.value = false;
    });
    listen('drop', (event) => {
      if (!holdsFiles(event.dataTransfer)) return;
      event.preventDefault();
      isOver.value = false;
      void filesIn(event.dataTransfer).then(onFiles);
    });
    listen('paste', (event) => {
      if (!holdsFiles(event.clipboardData)) return;
      event.preventDefault();
      void filesIn(event.clipboardData).then(onFiles);
    });
    return () => stop.abort();
  }, []);

  const take = (input: HTMLInputElement) => {
    onFiles(chosenIn(input));
    // So that the same file can be chosen again.
    input.value = '';
  };
  return (
    <>
      <p>
        <span class="only-wide">Drop files anywhere, or </span>
        <button type="button" class="primary" onClick={() => files.current?.click()}>
          Choose files
        </button>{' '}
        <button type="button" onClick={() => folder.current?.click()}>
          Choose folder
        </button>
      </p>
      <input ref={files} type="file" multiple hidden onChange={(event) => take(event.currentTarget)} />
      <input ref={folder} type="file" hidden onChange={(event) => take(event.currentTarget)} />
      {isOver.value && (
        <div class="drop-cover" aria-hidden="true">
          <p>Drop to upload</p>
        </div>
      )}
    </>
  );
}
