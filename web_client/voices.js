/**
 * The agent's voices: the list, and making one from three seconds of a recording.
 *
 * @import { Api } from "./api.js"
 */

import { element, say } from "./dom.js";
import { Failure } from "./failures.js";
import { LEAST_SECONDS, SAMPLE_RATE, VOICE_SECONDS, encodeWav, firstSpeech } from "./wav.js";

/**
 * @typedef {{ id: string, name: string }} Voice A recorded one has an id of its own, the model's are their names.
 */

/** @param {Api} api @returns {Promise<Voice[]>} */
export async function listVoices(api) {
  return (await (await api.get("v1/voices")).json()).data;
}

/**
 * @param {Api} api
 * @param {ArrayBuffer} wav
 * @param {string} name
 * @returns {Promise<Voice>}
 */
export async function createVoice(api, wav, name) {
  // The dialog asks for voices whose owner agrees.
  return (await api.post(`v1/voices?consent=true&name=${encodeURIComponent(name)}`, "audio/wav", wav)).json();
}

/** Forget a recorded voice, for everybody. @param {Api} api @param {string} id */
export async function removeVoice(api, id) {
  await api.delete(`v1/voices/${encodeURIComponent(id)}`);
}

/**
 * Any recording that the browser can play, as samples of one channel.
 *
 * @param {Blob} recording
 * @returns {Promise<Float32Array>} At SAMPLE_RATE.
 */
async function decode(recording) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const decoded = await context.decodeAudioData(await recording.arrayBuffer());
  const mixed = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    const samples = decoded.getChannelData(channel);
    for (let index = 0; index < mixed.length; index++) mixed[index] = (mixed[index] ?? 0) + (samples[index] ?? 0) / decoded.numberOfChannels;
  }
  return mixed;
}

/** The dialog in which a voice is recorded or uploaded, heard, named and sent. */
export class VoiceDialog {
  /**
   * @param {Api} api
   * @param {object} hooks
   * @param {() => Promise<MediaStream>} hooks.microphone
   * @param {(open: boolean) => void} hooks.toggled The microphone must not reach the agent meanwhile.
   * @param {(voice: Voice) => void} hooks.created
   */
  constructor(api, hooks) {
    this.api = api;
    this.hooks = hooks;
    this.dialog = element("voice-dialog", HTMLDialogElement);
    this.record = element("voice-record", HTMLButtonElement);
    this.file = element("voice-file", HTMLInputElement);
    this.name = element("voice-name", HTMLInputElement);
    this.preview = element("voice-preview", HTMLAudioElement);
    this.save = element("voice-save", HTMLButtonElement);
    this.status = element("voice-status", HTMLElement);
    /** @type {ArrayBuffer | null} */
    this.wav = null;
    /** @type {MediaRecorder | null} */
    this.recorder = null;

    this.record.addEventListener("click", () => this.#guard(() => this.#record()));
    this.file.addEventListener("change", () => this.#guard(() => this.#upload()));
    element("voice-cancel", HTMLButtonElement).addEventListener("click", () => this.dialog.close());
    element("voice-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#guard(() => this.#send());
    });
    this.dialog.addEventListener("close", () => {
      if (this.recorder?.state === "recording") this.recorder.stop();
      this.preview.pause();
      this.hooks.toggled(false);
    });
  }

  open() {
    this.#take(null);
    this.file.value = "";
    say(this.status, "");
    this.hooks.toggled(true);
    this.dialog.showModal();
  }

  /** Run a step, and say what went wrong with it. @param {() => Promise<void>} step */
  async #guard(step) {
    this.record.disabled = this.file.disabled = this.save.disabled = true;
    try {
      await step();
    } catch (error) {
      say(this.status, error instanceof Failure ? `${error.title}. ${error.advice}` : "That did not work. Try another recording.");
    }
    this.record.disabled = this.file.disabled = false;
    this.save.disabled = this.wav === null;
  }

  async #record() {
    const stream = await this.hooks.microphone();
    const recorder = new MediaRecorder(stream, { audioBitsPerSecond: 128_000 });
    this.recorder = recorder;
    /** @type {Blob[]} */
    const pieces = [];
    recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
    const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve));
    recorder.start();
    this.record.classList.add("recording");
    for (let left = VOICE_SECONDS; left > 0 && recorder.state === "recording"; left--) {
      say(this.status, `Speak… ${left}`);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    if (recorder.state === "recording") recorder.stop();
    await stopped;
    this.record.classList.remove("recording");
    for (const track of stream.getTracks()) track.stop();
    await this.#accept(new Blob(pieces, { type: recorder.mimeType }));
  }

  async #upload() {
    const file = this.file.files?.[0];
    if (!file) return;
    if (!this.name.value) this.name.value = file.name.replace(/\.[^.]*$/, "").slice(0, 40);
    await this.#accept(file);
  }

  /** @param {Blob} recording */
  async #accept(recording) {
    this.#take(null);
    const samples = await decode(recording).catch(() => {
      throw new Failure("refused", { title: "This is not a recording", advice: "Choose a WAV, FLAC, MP3 or Ogg file." });
    });
    const speech = firstSpeech(samples);
    const seconds = speech.length / SAMPLE_RATE;
    if (seconds < LEAST_SECONDS)
      throw new Failure("refused", {
        title: seconds === 0 ? "Nothing was heard" : `That is only ${seconds.toFixed(1)} seconds`,
        advice: "Three seconds of speech make a good voice.",
      });
    this.#take(encodeWav(speech));
    say(this.status, `${seconds.toFixed(1)} seconds. Listen to it, or use it.`);
  }

  async #send() {
    if (!this.wav) return;
    say(this.status, "Making the voice…");
    const voice = await createVoice(this.api, this.wav, this.name.value.trim() || "My voice");
    this.hooks.created(voice);
    this.dialog.close();
  }

  /** @param {ArrayBuffer | null} wav */
  #take(wav) {
    this.wav = wav;
    URL.revokeObjectURL(this.preview.src);
    this.preview.hidden = wav === null;
    if (wav) this.preview.src = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
    else this.preview.removeAttribute("src");
    this.save.disabled = wav === null;
  }
}
