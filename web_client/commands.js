/**
 * What the page asks of the server, as lists of client events.
 *
 * @import { Conversation, Line } from "./conversation.js"
 * @import { ClientEvent, TurnDetection } from "./events.js"
 */

import { splitHeard } from "./conversation.js";

/** As many lines are told to a server that came back; the models look at no more. */
const REPLAYED_LINES = 6;

/** End turns this way; `null`: the page does. @param {TurnDetection} turns @returns {ClientEvent[]} */
export function endTurnsBy(turns) {
  return [{ type: "session.update", session: { type: "realtime", audio: { input: { turn_detection: turns, transcription: {} } } } }];
}

/** Speak in this voice, or in the server's own if it is empty. @param {string} voice @returns {ClientEvent[]} */
export function speakWith(voice) {
  return voice ? [{ type: "session.update", session: { type: "realtime", audio: { output: { voice } } } }] : [];
}

/** A turn that was typed. @param {string} text @returns {ClientEvent[]} */
export function write(text) {
  return [
    { type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text }] } },
    { type: "response.create" },
  ];
}

/** The turn that was held open is over. @type {ClientEvent[]} */
export const ANSWER = [{ type: "input_audio_buffer.commit" }, { type: "response.create" }];

/** Stop the answer and its sound, as far as there is one. @param {Conversation} conversation @returns {ClientEvent[]} */
export function stop({ response, sounding }) {
  /** @type {ClientEvent[]} */
  const events = [];
  if (response !== null) events.push({ type: "response.cancel" });
  if (sounding !== null) events.push({ type: "output_audio_buffer.clear" });
  return events;
}

/**
 * Tell a new session what was said in an earlier one: of the answers, what was heard.
 *
 * @param {readonly Line[]} lines
 * @returns {ClientEvent[]}
 */
export function replay(lines) {
  return lines
    .slice(-REPLAYED_LINES)
    .map((line) => ({ line, text: splitHeard(line)[0].trim() }))
    .filter(({ text }) => text !== "")
    .map(({ line: { id, role }, text }) => ({
      type: "conversation.item.create",
      item: { id, type: "message", role, content: [{ type: role === "assistant" ? "output_text" : "input_text", text }] },
    }));
}
