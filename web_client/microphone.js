/**
 * The user's microphone: opening it, and the list of those there are.
 *
 * @import { Settings } from "./settings.js"
 */

import { Failure, microphoneFailure } from "./failures.js";

/**
 * @param {Pick<Settings, "microphone" | "clean">} settings
 * @returns {Promise<MediaStream>}
 * @throws {Failure} That says what the user can do.
 */
export async function openMicrophone({ microphone, clean }) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new Failure("insecure");
  /** @param {string} device */
  const ask = (device) =>
    navigator.mediaDevices.getUserMedia({
      audio: {
        ...(device ? { deviceId: { exact: device } } : {}),
        channelCount: 1,
        echoCancellation: clean,
        noiseSuppression: clean,
        autoGainControl: clean,
      },
    });
  try {
    return await ask(microphone);
  } catch (error) {
    // The chosen one may be unplugged: the system's own choice is better than none.
    if (microphone && error instanceof Error && (error.name === "OverconstrainedError" || error.name === "NotFoundError"))
      return ask("").catch((again) => Promise.reject(microphoneFailure(again)));
    throw microphoneFailure(error);
  }
}

/**
 * The microphones that have a name. Browsers name them only after the first permission.
 *
 * @returns {Promise<{ id: string, name: string }[]>}
 */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.label && device.deviceId !== "default")
    .map((device) => ({ id: device.deviceId, name: device.label }));
}
