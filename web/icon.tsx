/* Small pictures for buttons, drawn on a grid of 24 by 24. They take the colour of the text. */

const PATHS = {
  download: 'M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M5 19.5h14',
  delete: 'M5 7h14M10 7V4.5h4V7m-7 0 .8 12.5h8.4L17 7M10.2 10.5v6m3.6-6v6',
  pause: 'M9 6v12m6-12v12',
  resume: 'M8.5 5.5v13l10-6.5z',
  cancel: 'm6.5 6.5 11 11m0-11-11 11',
  retry: 'M18.5 12a6.5 6.5 0 1 1-2-4.7M18.5 4v4h-4',
  choose: 'M12 19.5V8.5m0 0L7.5 13M12 8.5l4.5 4.5M5 4.5h14',
};

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** A button with a picture instead of words. @param label for people who hear it, and as its tip */
export function IconButton({ icon, label, onClick }: { icon: IconName; label: string; onClick: () => void }) {
  return (
    <button type="button" class="quiet icon-button" aria-label={label} title={label} onClick={onClick}>
      <Icon name={icon} />
    </button>
  );
}
