import type { Signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';

/** A short message about what was just done. */
export interface Toast {
  text: string;
  /** The word on its button. */
  action?: string;
  act?(): void;
}

const SHOWN_MS = 10_000;

export function ToastBar({ toast }: { toast: Signal<Toast | undefined> }) {
  const { value } = toast;
  useEffect(() => {
    if (!value) return;
    const timer = setTimeout(() => {
      toast.value = undefined;
    }, SHOWN_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return (
    <div role="status" class="toast-place">
      {value && (
        <p class="toast">
          <span>{value.text}</span>
          {value.action && (
            <button
              type="button"
              class="link"
              onClick={() => {
                toast.value = undefined;
                value.act?.();
              }}
            >
              {value.action}
            </button>
          )}
        </p>
      )}
    </div>
  );
}
