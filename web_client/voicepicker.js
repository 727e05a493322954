/**
 * The voice picker: which voices there are, which one speaks, and the dialog that adds one.
 *
 * @import { Api } from "./api.js"
 * @import { Settings } from "./settings.js"
 */

import { element } from "./dom.js";
import { Failure } from "./failures.js";
import { openMicrophone } from "./microphone.js";
import { VoiceDialog, listVoices } from "./voices.js";

const RETRY_MS = 2000;

export class VoicePicker {
  #api;
  #settings;
  #heard;
  #select = element("voice", HTMLSelectElement);

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
      settings.voice = this.#select.value;
      heard.chosen();
    });
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
      this.#heard.loaded();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#heard.failed(error);
      if (error.retry) setTimeout(() => this.load(), RETRY_MS);
    }
  }
}
