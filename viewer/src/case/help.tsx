import { useEffect, useRef } from "preact/hooks";

const KEYS: readonly (readonly [string, string])[] = [
  ["J, Alt →", "next case"],
  ["K, Alt ←", "case before"],
  ["arrows, on a picture", "move the crosshair"],
  ["Page Up, Page Down, on a picture", "slice before, next slice"],
  ["+ and −, 0", "larger, smaller, whole image"],
  ["O", "maps side by side, or over the image"],
  ["M", "outline of the mask, or none"],
  ["I", "smooth, or every voxel as it is"],
  ["W", "window as at first"],
  ["R", "rate the case; in the form A, D and U: agree, disagree, unsure"],
  ["Ctrl Z", "undo what was drawn"],
  ["?", "this help"],
];

const POINTER: readonly (readonly [string, string])[] = [
  ["drag, one finger", "as chosen under “drag”: crosshair, move, or window (right and left for width, up and down for level)"],
  ["drag with the right button", "window"],
  ["drag with Shift or the middle button", "move"],
  ["wheel", "slices of a volume; zoom of a picture, and of a volume with Ctrl"],
  ["two fingers", "zoom"],
];

/** The keys and gestures of the case view, in a dialog. */
export function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog class="help" ref={dialog} onClose={close} aria-label="Keys and gestures">
      <h2>Keys</h2>
      <List of={KEYS} />
      <h2>Mouse and touch</h2>
      <List of={POINTER} />
      <p class="quiet">
        Pictures lie as a radiologist looks at them: the patient's right is on the left of axial and coronal ones, anterior is on the left of
        sagittal ones, superior is on top.
      </p>
      <button type="button" onClick={() => dialog.current?.close()}>Close</button>
    </dialog>
  );
}

function List({ of }: { of: readonly (readonly [string, string])[] }) {
  return <dl>{of.map(([key, does]) => <div key={key}><dt>{key}</dt><dd>{does}</dd></div>)}</dl>;
}
