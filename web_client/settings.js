/** The user's choices, kept in localStorage. */

/**
 * @typedef {object} Settings
 * @property {"open" | "hold"} mode Open microphone (the server finds the end of a turn), or hold to talk.
 * @property {string} microphone Device id; empty for the system's own choice.
 * @property {string} voice Voice id; empty for the server's default.
 * @property {boolean} clean Echo cancellation, noise suppression and gain control. Off is for headphones and studios.
 * @property {string} token What the server wants to be shown, where it wants one; mostly empty.
 * @property {boolean} latency Whether the latency panel is shown.
 */

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({ mode: "open", microphone: "", voice: "", clean: true, token: "", latency: false });

const KEY = "speechgpt-gen.settings";

/**
 * Read what was kept; anything missing, of a wrong type or unreadable becomes its default.
 *
 * @param {Pick<Storage, "getItem">} storage
 * @returns {Settings}
 */
export function loadSettings(storage) {
  /** @type {Partial<Record<keyof Settings, unknown>>} */
  let kept = {};
  try {
    kept = JSON.parse(storage.getItem(KEY) ?? "{}") ?? {};
  } catch {
    // Storage can be forbidden, or hold what another program wrote: the defaults do.
  }
  /** @param {unknown} value @param {string} otherwise */
  const text = (value, otherwise) => (typeof value === "string" ? value : otherwise);
  /** @param {unknown} value @param {boolean} otherwise */
  const flag = (value, otherwise) => (typeof value === "boolean" ? value : otherwise);
  return {
    mode: kept.mode === "hold" ? "hold" : DEFAULTS.mode,
    microphone: text(kept.microphone, DEFAULTS.microphone),
    voice: text(kept.voice, DEFAULTS.voice),
    clean: flag(kept.clean, DEFAULTS.clean),
    token: text(kept.token, DEFAULTS.token),
    latency: flag(kept.latency, DEFAULTS.latency),
  };
}

/**
 * @param {Pick<Storage, "setItem">} storage
 * @param {Settings} settings
 */
export function saveSettings(storage, settings) {
  try {
    storage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A private window may refuse: the settings last as long as the page then.
  }
}
