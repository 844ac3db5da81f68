import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { connection, tryNow } from '../connection.js';

/** Says that the server cannot be reached, in one place for the whole page. */
export function Banner() {
  const now = useSignal(Date.now());
  const { value } = connection;
  const isAway = value.state === 'away';
  useEffect(() => {
    if (!isAway) return;
    const timer = setInterval(() => {
      now.value = Date.now();
    }, 500);
    return () => clearInterval(timer);
  }, [isAway]);
  return (
    <div role="status" class="connection" data-state={value.state}>
      {value.state === 'offline' && <p>Offline. Uploads continue automatically.</p>}
      {value.state === 'away' && (
        <p>
          Cannot reach the server. {nextTry(value.nextTryAt, now.value)}{' '}
          <button type="button" class="link" onClick={tryNow}>
            Retry now
          </button>
        </p>
      )}
    </div>
  );
}

function nextTry(at: number | undefined, now: number): string {
  if (at === undefined) return 'Trying …';
  return `Next try in ${Math.max(1, Math.ceil((at - now) / 1000))} s.`;
}
