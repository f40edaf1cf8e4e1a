import { useListener } from "../listening.ts";

/** Does what belongs to a key, unless the key is typed into a field; `Alt ` stands before one that is pressed with Alt. */
export function useKeys(actions: Readonly<Record<string, () => void>>): void {
  useListener("keydown", (event) => {
    const isField = event.target instanceof Element && event.target.closest("input:not([type=checkbox], [type=range]), select, textarea, dialog");
    const action = actions[`${event.altKey ? "Alt " : ""}${event.key.length === 1 ? event.key.toLowerCase() : event.key}`];
    if (isField || event.ctrlKey || event.metaKey || !action) return;
    event.preventDefault();
    action();
  });
}
