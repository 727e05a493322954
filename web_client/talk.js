/**
 * The talk button's gestures: pointer, space bar, and a press by assistive technology.
 *
 * A tap is told on `tap`. Where the button must be held, `press` and `release` come instead. A screen reader cannot hold
 * a button: its click presses, the next one releases.
 */

/** Where the space bar already means something. */
const TAKES_SPACE = "input, select, textarea, button, summary, a, audio, dialog, [contenteditable]";

/**
 * @param {HTMLButtonElement} button
 * @param {{ holding: () => boolean, tap: () => void, press: () => void, release: () => void }} gestures
 *   `holding`: whether the button must be held now.
 */
export function watchTalkButton(button, { holding, tap, press, release }) {
  let held = false;
  /** A pointer or key began this gesture, so the click that ends it says nothing new. */
  let physical = false;

  const down = () => {
    physical = true;
    if (held || !holding()) return;
    held = true;
    press();
  };
  const up = () => {
    if (!held) return;
    held = false;
    release();
  };

  button.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (holding()) button.setPointerCapture(event.pointerId);
    down();
  });
  button.addEventListener("pointerup", up);
  button.addEventListener("pointercancel", up);
  button.addEventListener("contextmenu", (event) => holding() && event.preventDefault());
  button.addEventListener("click", () => {
    const wasHeld = physical && holding();
    const byReader = !physical && holding();
    physical = false;
    if (byReader) {
      if (held) up();
      else {
        down();
        physical = false;
      }
    } else if (!wasHeld) tap();
  });

  window.addEventListener("keydown", (event) => {
    if (event.code !== "Space" || event.ctrlKey || event.altKey || event.metaKey || !forButton(event)) return;
    event.preventDefault();
    if (event.repeat) return;
    if (holding()) down();
    else tap();
  });
  window.addEventListener("keyup", (event) => {
    if (event.code !== "Space" || !forButton(event)) return;
    event.preventDefault();
    physical = false;
    up();
  });
  window.addEventListener("blur", up);

  /** @param {KeyboardEvent} event */
  function forButton(event) {
    if (document.querySelector("dialog[open]")) return false;
    return event.target === button || !(event.target instanceof Element && event.target.closest(TAKES_SPACE));
  }
}
