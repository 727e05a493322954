/**
 * The voice picker: which voices there are, which one speaks, the dialog that adds one, and the end of one.
 *
 * @import { Api } from "./api.js"
 * @import { Settings } from "./settings.js"
 */

import { element } from "./dom.js";
import { Failure } from "./failures.js";
import { openMicrophone } from "./microphone.js";
import { VoiceDialog, listVoices, removeVoice } from "./voices.js";

const RETRY_MS = 2000;

export class VoicePicker {
  #api;
  #settings;
  #heard;
  #select = element("voice", HTMLSelectElement);
  #remove = element("voice-remove", HTMLButtonElement);

  /**
   * @param {Api} api
   * @param {Settings} settings The chosen voice is kept in them.
   * @param {{ chosen: () => void, loaded: () => void, failed: (failure: Failure) => void, hush: (on: boolean) => void }} heard
   *   `hush`: the dialog records, and the agent must not hear it.
   */
  constructor(api, settings, heard) {
    this.#api = api;
    this.#settings = settings;
    this.#heard = heard;
    this.#select.addEventListener("change", () => {
      this.#show();
      settings.voice = this.#select.value;
      heard.chosen();
    });
    this.#remove.addEventListener("click", () => this.#forget());
    const dialog = new VoiceDialog(api, {
      microphone: () => openMicrophone(settings),
      toggled: heard.hush,
      created: (voice) => {
        this.#select.add(new Option(voice.name, voice.id, false, true));
        this.#select.dispatchEvent(new Event("change"));
      },
    });
    element("voice-add", HTMLButtonElement).addEventListener("click", () => dialog.open());
  }

  /** Ask the server for its voices; a server that is still warming up is asked again. */
  async load() {
    try {
      const voices = await listVoices(this.#api);
      this.#select.replaceChildren(...voices.map((voice) => new Option(voice.name, voice.id)));
      this.#select.value = this.#settings.voice;
      // A recorded voice may be gone, deleted or given way to newer ones: the first one speaks.
      if (this.#select.selectedIndex < 0) {
        this.#settings.voice = "";
        this.#select.selectedIndex = 0;
      }
      this.#show();
      this.#heard.loaded();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#heard.failed(error);
      if (error.retry) setTimeout(() => this.load(), RETRY_MS);
    }
  }

  /** Only recorded voices can be removed. */
  #show() {
    const option = this.#select.selectedOptions[0];
    this.#remove.hidden = !option || option.value === option.text;
  }

  async #forget() {
    const option = this.#select.selectedOptions[0];
    if (!option || !confirm(`Remove the voice “${option.text}” and its recording from the server?`)) return;
    try {
      await removeVoice(this.#api, option.value);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#heard.failed(error);
      return;
    }
    option.remove();
    this.#select.selectedIndex = 0;
    this.#select.dispatchEvent(new Event("change"));
  }
}
