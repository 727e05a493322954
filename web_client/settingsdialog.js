/**
 * The settings dialog. It changes the settings it was given, at once, and tells which one.
 *
 * @import { Settings } from "./settings.js"
 */

import { element } from "./dom.js";
import { listMicrophones } from "./microphone.js";

export class SettingsDialog {
  /**
   * @param {Settings} settings
   * @param {(name: "mode" | "microphone" | "clean" | "token") => void} changed
   */
  constructor(settings, changed) {
    this.settings = settings;
    this.microphones = element("microphone", HTMLSelectElement);
    const dialog = element("settings", HTMLDialogElement);
    const clean = element("clean", HTMLInputElement);
    const token = element("token", HTMLInputElement);

    for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (dialog.querySelectorAll("input[name=mode]"))) {
      radio.checked = radio.value === settings.mode;
      radio.addEventListener("change", () => {
        settings.mode = radio.value === "hold" ? "hold" : "open";
        changed("mode");
      });
    }
    clean.checked = settings.clean;
    clean.addEventListener("change", () => {
      settings.clean = clean.checked;
      changed("clean");
    });
    token.value = settings.token;
    token.addEventListener("change", () => {
      settings.token = token.value.trim();
      changed("token");
    });
    this.microphones.addEventListener("change", () => {
      settings.microphone = this.microphones.value;
      changed("microphone");
    });

    element("settings-open", HTMLButtonElement).addEventListener("click", () => {
      this.listMicrophones();
      dialog.showModal();
    });
    // A click on the backdrop lands on the dialog itself.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    navigator.mediaDevices?.addEventListener("devicechange", () => this.listMicrophones());
  }

  /** Fill the list of microphones; a chosen one that is gone stays chosen for when it is back. */
  async listMicrophones() {
    const found = await listMicrophones();
    this.microphones.replaceChildren(
      new Option("System default", ""),
      ...found.map(({ id, name }) => new Option(name, id)),
    );
    const { microphone } = this.settings;
    if (microphone && !found.some(({ id }) => id === microphone))
      this.microphones.add(new Option("Chosen earlier (not there now)", microphone));
    this.microphones.value = microphone;
  }
}
