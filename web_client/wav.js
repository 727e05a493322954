/** Three seconds of a voice as a WAV file: cutting and encoding, without a browser. */

/** What the models hear. */
export const SAMPLE_RATE = 16_000;
/** As much of a voice as the server needs. */
export const VOICE_SECONDS = 3;
/** Less than this is too little to copy a voice from. */
export const LEAST_SECONDS = 1;

/**
 * The first seconds of speech in a recording: from just before its first sound.
 *
 * @param {Float32Array} samples At SAMPLE_RATE.
 * @param {number} [seconds]
 * @returns {Float32Array} At most that long; empty when nothing but silence was recorded.
 */
export function firstSpeech(samples, seconds = VOICE_SECONDS) {
  const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  if (peak < 0.004) return new Float32Array(0);
  const onset = samples.findIndex((sample) => Math.abs(sample) > peak / 10);
  const start = Math.max(onset - SAMPLE_RATE / 10, 0);
  return samples.slice(start, start + seconds * SAMPLE_RATE);
}

/**
 * A RIFF/WAVE file: 16-bit PCM, one channel.
 *
 * @param {Float32Array} samples In [-1, 1]; louder is clipped.
 * @param {number} [rate] Hz.
 * @returns {ArrayBuffer}
 */
export function encodeWav(samples, rate = SAMPLE_RATE) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  /** @param {number} at @param {string} text */
  const tag = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  tag(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  tag(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  tag(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => {
    const clipped = Math.min(Math.max(sample, -1), 1);
    view.setInt16(44 + 2 * index, Math.round(clipped * 32767), true);
  });
  return view.buffer;
}
