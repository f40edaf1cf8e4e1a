import { useLayoutEffect } from "preact/hooks";

/** Follows an event of the page as soon as the view is there: an effect that waits for the painting loses a key that is pressed on sight. */
export function useListener<Type extends keyof WindowEventMap>(type: Type, follow: (event: WindowEventMap[Type]) => void): void {
  useLayoutEffect(() => {
    addEventListener(type, follow);
    return () => removeEventListener(type, follow);
  });
}
