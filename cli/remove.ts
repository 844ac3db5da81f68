import type { Context } from './context.js';
import { forEachFile } from './watch.js';

/** `landfall rm`: puts files into the trash, or deletes them for good. @returns the exit code */
export async function removeFiles(context: Context, ids: string[], permanent: boolean): Promise<number> {
  const { api, output } = context;
  return forEachFile(context, ids, async (id) => {
    await api.fetch(`/api/files/${encodeURIComponent(id)}${permanent ? '?permanent=1' : ''}`, {
      method: 'DELETE',
    });
    output.result({
      text: `${id}  ${permanent ? 'deleted' : 'in the trash'}`,
      json: { id, permanent },
      brief: id,
    });
    return undefined;
  });
}
