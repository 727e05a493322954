/**
 * The two voices as bars that flow outwards from the talk button: the user's to the left, the agent's to the right.
 *
 * Height is loudness, distance is time, so an interruption is seen as the one side starting and the other stopping.
 */

import { loudness } from "./levels.js";

/** One bar per this much time. */
const BAR_MS = 60;
const BAR = 4;
const GAP = 4;

export class Waveform {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{ clearance: number }} options Pixels to leave free on each side of the centre.
   */
  constructor(canvas, { clearance }) {
    this.canvas = canvas;
    this.clearance = clearance;
    /** Loudness per bar, newest first. @type {{ user: number[], agent: number[] }} */
    this.bars = { user: [], agent: [] };
    this.peak = { user: 0, agent: 0 };
    this.since = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
  }

  /**
   * Take the current levels, and draw.
   *
   * @param {number} user dBFS.
   * @param {number} agent dBFS.
   * @param {number} now Milliseconds.
   */
  push(user, agent, now) {
    this.peak.user = Math.max(this.peak.user, loudness(user));
    this.peak.agent = Math.max(this.peak.agent, loudness(agent));
    // Without motion the bars only tell the level, a few times a second.
    const every = this.still.matches ? 4 * BAR_MS : BAR_MS;
    if (now - this.since < every && this.since <= now) {
      if (!this.still.matches) this.#draw((now - this.since) / every);
      return;
    }
    this.since = now - this.since > 4 * every ? now : this.since + every;
    const most = Math.ceil(this.canvas.clientWidth / (BAR + GAP));
    for (const side of /** @type {const} */ (["user", "agent"])) {
      this.bars[side] = this.still.matches
        ? Array.from({ length: 8 }, (_, index) => (this.peak[side] * 8 > index ? this.peak[side] : 0))
        : [this.peak[side], ...this.bars[side]].slice(0, most);
      this.peak[side] = 0;
    }
    this.#draw(0);
  }

  /** @param {number} shift How far into the next bar time has come, in [0, 1). */
  #draw(shift) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const paint = this.canvas.getContext("2d");
    if (!paint) return;
    const style = getComputedStyle(this.canvas);
    const colours = { user: style.getPropertyValue("--you"), agent: style.getPropertyValue("--agent") };
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, width, height);
    const room = width / 2 - this.clearance;
    for (const side of /** @type {const} */ (["user", "agent"])) {
      paint.fillStyle = colours[side];
      for (const [index, loud] of this.bars[side].entries()) {
        const away = (index + shift) * (BAR + GAP);
        if (away > room - BAR) break;
        const tall = Math.max(loud * height * 0.92, BAR);
        const x = side === "user" ? width / 2 - this.clearance - away - BAR : width / 2 + this.clearance + away;
        // Old sound fades, and silence is only hinted at.
        paint.globalAlpha = (1 - away / room) ** 0.8 * (loud > 0.02 ? 1 : 0.35);
        paint.beginPath();
        paint.roundRect(x, (height - tall) / 2, BAR, tall, BAR / 2);
        paint.fill();
      }
    }
    paint.globalAlpha = 1;
  }
}
