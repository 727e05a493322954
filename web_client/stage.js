/**
 * What the talk button shows and does: one pure function of everything that bears on it.
 *
 * @import { Status } from "./connection.js"
 * @import { Phase } from "./conversation.js"
 */

/**
 * @typedef {"start" | "cancel" | "retry" | "mute" | "unmute" | "stop" | "hold"} Action What a press does.
 *
 * @typedef {object} Stage
 * @property {"off" | "connecting" | "waiting" | "muted" | "listening" | "hearing" | "thinking" | "speaking"} look
 * @property {string} title The state, for people.
 * @property {string} label What the button does: its accessible name.
 * @property {string} hint
 * @property {Action} action
 *
 * @typedef {object} Situation
 * @property {Status} status
 * @property {Phase} phase
 * @property {"open" | "hold"} mode
 * @property {boolean} microphone There is one in this call.
 * @property {boolean} muted
 * @property {boolean} held
 * @property {boolean} keyboard Worth mentioning here.
 * @property {number} now On the clock of `performance.now()`.
 */

/**
 * @param {Situation} situation
 * @returns {Stage}
 */
export function stage({ status, phase, mode, microphone, muted, held, keyboard, now }) {
  switch (status.state) {
    case "closed":
      return { look: "off", title: "Ready when you are", label: "Start talking", hint: `Press the button${keyboard ? ", or the space bar" : ""}`, action: "start" };
    case "connecting":
      return { look: "connecting", title: "Connecting…", label: "Cancel", hint: "Press to cancel", action: "cancel" };
    case "waiting": {
      const seconds = Math.max(Math.ceil((status.until - now) / 1000), 0);
      return { look: "waiting", title: `Trying again in ${seconds} s`, label: "Try again now", hint: "Press to try now", action: "retry" };
    }
    case "open":
      break;
  }
  const busy = phase === "thinking" || phase === "speaking";
  if (mode === "hold" && microphone) {
    const it = keyboard ? "the button or the space bar" : "the button";
    if (held) return { look: "hearing", title: "Listening", label: "Release to send", hint: "Release to send", action: "hold" };
    const title = phase === "thinking" ? "Thinking" : phase === "speaking" ? "Speaking" : "Hold to talk";
    const hint = busy ? `Hold ${it} to interrupt` : `Hold ${it} while you speak`;
    return { look: busy ? phase : "muted", title, label: "Hold to talk", hint, action: "hold" };
  }
  if (phase === "thinking") return { look: phase, title: "Thinking", label: "Stop the answer", hint: "Press to stop", action: "stop" };
  if (phase === "speaking") {
    const hint = microphone && !muted ? "Speak to interrupt, or press to stop" : "Press to stop";
    return { look: phase, title: "Speaking", label: "Stop the answer", hint, action: "stop" };
  }
  if (!microphone)
    return { look: "muted", title: "No microphone", label: "Turn the microphone on", hint: "Type below, or press to try the microphone again", action: "unmute" };
  if (muted) return { look: "muted", title: "Microphone off", label: "Turn the microphone on", hint: "Press to turn it on", action: "unmute" };
  const title = phase === "hearing" ? "I hear you" : "Listening";
  return { look: phase, title, label: "Turn the microphone off", hint: "Just speak. Press to turn the microphone off", action: "mute" };
}
