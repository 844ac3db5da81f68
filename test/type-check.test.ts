import { createLogger } from '../core/log.js';
import type { Detected } from '../core/media/types.js';
import type { ByteSource } from '../core/uploads/receive.js';
import { ofAllowedType } from '../server/plain/type-check.js';

/* The early check of the type, when the client breaks off while the check is under way. */

test('nothing is given once the flow is over, although the type is found out later', async () => {
  let found = () => {};
  const asked = new Promise<void>((begun) => {
    found = begun;
  });
  let answer = () => {};
  const detected = new Promise<Detected>((resolve) => {
    answer = () => resolve({ mime: 'image/png' } as Detected);
  });
  const brokenOff = new Error('the client has gone');
  const source: ByteSource = {
    end() {},
    async flow(take) {
      // As a socket does: the connection breaks while the chunk is being taken.
      void take(Buffer.alloc(4096));
      await asked;
      throw brokenOff;
    },
  };
  const checked = ofAllowedType(
    {
      detectType() {
        found();
        return detected;
      },
      log: createLogger('silent', 'test'),
    },
    { types: ['image/*'], declaredType: null, stopped: new AbortController().signal },
    source,
  );
  let isOver = false;
  let late = 0;
  const flow = checked
    .flow(() => {
      if (isOver) late++;
      return undefined;
    })
    .catch((error: unknown) => error)
    .finally(() => {
      isOver = true;
    });
  await asked;
  await new Promise(setImmediate);
  answer();
  expect(await flow).toBe(brokenOff);
  await new Promise(setImmediate);
  expect(late).toBe(0);
});
