/** How loud a stream is right now, in dBFS. */

/** Quieter than this is silence. */
export const SILENCE = -90;

/** About 20 ms at 48 kHz: one frame of the conversation. */
const WINDOW = 1024;

export class LevelMeter {
  /** @param {AudioContext} context */
  constructor(context) {
    this.context = context;
    this.analyser = context.createAnalyser();
    this.analyser.fftSize = WINDOW;
    this.samples = new Float32Array(WINDOW);
    /** @type {MediaStreamAudioSourceNode | null} */
    this.source = null;
  }

  /** Measure this stream instead of the last one. @param {MediaStream | null} stream */
  listenTo(stream) {
    this.source?.disconnect();
    this.source = stream && stream.getAudioTracks().length > 0 ? this.context.createMediaStreamSource(stream) : null;
    this.source?.connect(this.analyser);
  }

  /** Root mean square of the last 20 ms, in dBFS. */
  level() {
    if (!this.source) return SILENCE;
    this.analyser.getFloatTimeDomainData(this.samples);
    let energy = 0;
    for (const sample of this.samples) energy += sample * sample;
    return Math.max(10 * Math.log10(energy / WINDOW + 1e-12), SILENCE);
  }
}

/**
 * Where a level stands between a whisper and a shout, for drawing.
 *
 * @param {number} level dBFS.
 * @returns {number} In [0, 1].
 */
export function loudness(level) {
  return Math.min(Math.max((level + 54) / 44, 0), 1) ** 1.4;
}
