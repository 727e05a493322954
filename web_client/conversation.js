/**
 * What has been said so far, and who is speaking: a pure function from events to state.
 *
 * The page draws this state and nothing else, so whatever is true on screen can be replayed from a list of events.
 *
 * @import { Item, Role, ServerEvent } from "./events.js"
 */

/**
 * @typedef {object} Line One turn of one side.
 * @property {string} id The protocol's item id.
 * @property {Role} role
 * @property {string} text Everything transcribed, or planned to be said, so far.
 * @property {"open" | "done" | "cut" | "failed"} status `cut`: an answer that was interrupted.
 * @property {string | null} heard Of a cut answer, the words that reached the listener; `null` until the server has said.
 * @property {string | null} response Id of the response that an answer belongs to.
 *
 * @typedef {object} Conversation
 * @property {readonly Line[]} lines
 * @property {boolean} hearing The server hears the user speak.
 * @property {boolean} awaiting A turn is over and its response has not begun.
 * @property {string | null} response The response in progress.
 * @property {string | null} sounding The response whose sound is playing.
 *
 * @typedef {"listening" | "hearing" | "thinking" | "speaking"} Phase
 */

/** @type {Conversation} */
export const EMPTY = Object.freeze({ lines: [], hearing: false, awaiting: false, response: null, sounding: null });

/**
 * What the agent is doing, as one word. The user's voice wins over everything: it is what interrupts.
 *
 * @param {Conversation} state
 * @returns {Phase}
 */
export function phase(state) {
  if (state.hearing) return "hearing";
  if (state.sounding !== null) return "speaking";
  if (state.awaiting || state.response !== null) return "thinking";
  return "listening";
}

/**
 * Forget what was in progress, keep what was said: the call has ended.
 *
 * @param {Conversation} state
 * @returns {Conversation}
 */
export function hangUp(state) {
  const lines = state.lines
    .filter((line) => line.text !== "")
    .map((line) => (line.status === "open" ? { ...line, status: /** @type {const} */ ("done") } : line));
  return { ...EMPTY, lines };
}

/**
 * Split an interrupted answer into what was heard and what was not.
 *
 * The two are compared word by word, since the server may space or punctuate its record of what was heard differently.
 *
 * @param {Line} line
 * @returns {[heard: string, unheard: string]}
 */
export function splitHeard(line) {
  if (line.status !== "cut" || line.heard === null) return [line.text, ""];
  const head = line.text.match(new RegExp(`^\\s*(?:\\S+\\s*){0,${count(line.heard)}}`))?.[0] ?? "";
  return [head.trimEnd(), line.text.slice(head.trimEnd().length)];
}

/** The words of an item, whichever part holds them. @param {Item} item @returns {string} */
export function wordsOf(item) {
  return (item.content ?? []).map((part) => part.transcript ?? part.text ?? "").join("");
}

/**
 * @param {Conversation} state
 * @param {string} id
 * @param {Partial<Line> | ((line: Line) => Partial<Line>)} change
 * @returns {Conversation}
 */
function amend(state, id, change) {
  if (!state.lines.some((line) => line.id === id)) return state;
  const lines = state.lines.map((line) =>
    line.id === id ? { ...line, ...(typeof change === "function" ? change(line) : change) } : line,
  );
  return { ...state, lines };
}

/**
 * Make sure that a line exists. A new one goes after `previous` when that is known, else to the end.
 *
 * @param {Conversation} state
 * @param {string} id
 * @param {Role} role
 * @param {string | null} [previous]
 * @returns {Conversation}
 */
function ensure(state, id, role, previous) {
  if (state.lines.some((line) => line.id === id)) return state;
  /** @type {Line} */
  const line = { id, role, text: "", status: "open", heard: null, response: null };
  const after = previous ? state.lines.findIndex((other) => other.id === previous) : -1;
  const at = after < 0 ? state.lines.length : after + 1;
  return { ...state, lines: [...state.lines.slice(0, at), line, ...state.lines.slice(at)] };
}

/**
 * Every answer of a response that has not been heard to its end is cut.
 *
 * @param {Conversation} state
 * @param {string} response
 * @returns {Conversation}
 */
function cut(state, response) {
  const lines = state.lines.map((line) =>
    line.response === response && line.status !== "failed" ? { ...line, status: /** @type {const} */ ("cut") } : line,
  );
  return { ...state, lines };
}

/**
 * The next state. Events that say nothing about the conversation leave it as it is (the same object).
 *
 * @param {Conversation} state
 * @param {ServerEvent} event
 * @returns {Conversation}
 */
export function reduce(state, event) {
  switch (event.type) {
    case "input_audio_buffer.speech_started":
      return ensure({ ...state, hearing: true, awaiting: false }, event.item_id, "user");
    case "input_audio_buffer.speech_stopped":
      return { ...state, hearing: false, awaiting: true };
    case "input_audio_buffer.committed":
      return ensure({ ...state, hearing: false, awaiting: true }, event.item_id, "user", event.previous_item_id);
    case "input_audio_buffer.cleared":
      return { ...state, hearing: false, awaiting: false };

    case "conversation.item.added":
    case "conversation.item.done":
    case "response.output_item.added":
    case "response.output_item.done":
      return itemSeen(state, event);
    case "conversation.item.retrieved":
      return amend(state, event.item.id, (line) => (line.status === "cut" ? { heard: wordsOf(event.item) } : {}));
    case "conversation.item.truncated":
      return amend(state, event.item_id, { status: "cut" });
    case "conversation.item.deleted":
      return { ...state, lines: state.lines.filter((line) => line.id !== event.item_id) };

    case "conversation.item.input_audio_transcription.delta":
      return amend(state, event.item_id, (line) => ({ text: line.text + event.delta }));
    case "conversation.item.input_audio_transcription.completed": {
      const text = event.transcript.trim();
      const heard = amend(state, event.item_id, { text, status: "done" });
      return text === "" ? { ...heard, awaiting: false } : heard;
    }
    case "conversation.item.input_audio_transcription.failed":
      return { ...amend(state, event.item_id, { status: "failed" }), awaiting: false };

    case "response.created":
      return { ...state, awaiting: false, response: event.response.id };
    case "response.output_audio_transcript.delta":
    case "response.output_text.delta":
      return amend(ensure(state, event.item_id, "assistant"), event.item_id, (line) => ({
        text: line.text + event.delta,
        response: event.response_id,
      }));
    case "response.output_audio_transcript.done":
      return amend(state, event.item_id, (line) => spokenDone(line, event.transcript));
    case "response.output_text.done":
      return amend(state, event.item_id, { text: event.text });
    case "response.done":
      return responseOver(state, event.response.id, event.response.status ?? "completed");

    case "output_audio_buffer.started":
      return { ...state, sounding: event.response_id };
    case "output_audio_buffer.stopped":
      return { ...state, sounding: null };
    case "output_audio_buffer.cleared":
      return cut({ ...state, sounding: null }, event.response_id);
    default:
      return state;
  }
}

/**
 * @param {Conversation} state
 * @param {{ item: Item, previous_item_id?: string | null, response_id?: string }} event
 * @returns {Conversation}
 */
function itemSeen(state, { item, previous_item_id: previous, response_id: response }) {
  if (item.type !== "message" || (item.role !== "user" && item.role !== "assistant")) return state;
  const words = wordsOf(item);
  return amend(ensure(state, item.id, item.role, previous), item.id, (line) => ({
    text: line.text || words,
    response: response ?? line.response,
    // A user's turn is an item before its words are known: its transcript ends it. A typed one has its words.
    status: line.status === "open" && item.status === "completed" && words ? "done" : line.status,
  }));
}

/**
 * The record of a spoken answer is complete. Words that were begun and are not in it were cut off: they stay, unheard.
 *
 * @param {Line} line
 * @param {string} transcript
 * @returns {Partial<Line>}
 */
function spokenDone(line, transcript) {
  return count(transcript) < count(line.text) ? { heard: transcript } : { text: transcript };
}

/** @param {string} text */
const count = (text) => text.split(/\s+/).filter(Boolean).length;

/**
 * A response is over; of one that never came to a word nothing is kept.
 *
 * @param {Conversation} state
 * @param {string} response
 * @param {string} status
 * @returns {Conversation}
 */
function responseOver(state, response, status) {
  const over = {
    ...state,
    lines: state.lines.filter((line) => line.response !== response || line.text !== ""),
    awaiting: false,
    response: state.response === response ? null : state.response,
  };
  if (status === "cancelled") return cut(over, response);
  /** @type {Line["status"]} */
  const ended = status === "failed" ? "failed" : "done";
  const lines = over.lines.map((line) => (line.response === response && line.status !== "cut" ? { ...line, status: ended } : line));
  return { ...over, lines };
}
