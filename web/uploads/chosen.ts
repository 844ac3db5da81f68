/* The files that people choose, drop or paste, with the paths that they have in their folders. */

export interface ChosenFile {
  file: File;
  /** With slashes, such as `holiday/day 1/beach.jpg`; undefined for a file that was not chosen with its folder. */
  path?: string;
}

/** The files of a field for files or for a folder. */
export function chosenIn(input: HTMLInputElement): ChosenFile[] {
  return [...(input.files ?? [])].map((file) =>
    file.webkitRelativePath ? { file, path: file.webkitRelativePath } : { file },
  );
}

/** Whether something that is dragged or pasted holds files. */
export function holdsFiles(data: DataTransfer | null): data is DataTransfer {
  return data?.types.includes('Files') ?? false;
}

/** The files of a drop or a paste, those in folders too, in the order of their paths. */
export async function filesIn(data: DataTransfer): Promise<ChosenFile[]> {
  // The entries must be taken before anything is awaited: the browser empties the data then.
  const entries = [...data.items]
    .filter(({ kind }) => kind === 'file')
    .map((item) => item.webkitGetAsEntry?.());
  if (entries.some((entry) => !entry)) return [...data.files].map((file) => ({ file }));
  const found = await Promise.all(entries.map((entry) => filesOf(entry as FileSystemEntry, '')));
  return found.flat();
}

async function filesOf(entry: FileSystemEntry, folder: string): Promise<ChosenFile[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) =>
      (entry as FileSystemFileEntry).file(resolve, reject),
    );
    return [folder ? { file, path: folder + entry.name } : { file }];
  }
  const found: ChosenFile[] = [];
  const children = await childrenOf(entry as FileSystemDirectoryEntry);
  for (const child of children.sort((a, b) => a.name.localeCompare(b.name))) {
    found.push(...(await filesOf(child, `${folder}${entry.name}/`)));
  }
  return found;
}

async function childrenOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const found: FileSystemEntry[] = [];
  // A browser gives at most 100 entries at a time, and none at the end.
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (some.length === 0) return found;
    found.push(...some);
  }
}
