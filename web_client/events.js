/**
 * The public protocol, as far as this page uses it: events of the OpenAI Realtime API (GA names), one typedef each.
 * Fields that the page does not read are left out. This module holds types and one parser, no state.
 */

/**
 * @typedef {"user" | "assistant" | "system"} Role
 *
 * @typedef {object} Part One piece of an item's content.
 * @property {string} type `input_audio`, `input_text`, `output_audio` or `output_text`.
 * @property {string | null} [transcript]
 * @property {string | null} [text]
 *
 * @typedef {object} Item
 * @property {string} id
 * @property {string} type
 * @property {Role} [role]
 * @property {string} [status] `in_progress`, `completed` or `incomplete`.
 * @property {Part[]} [content]
 *
 * @typedef {object} ResponseBody
 * @property {string} id
 * @property {string} [status] `in_progress`, `completed`, `cancelled`, `incomplete` or `failed`.
 * @property {{ type?: string, reason?: string, error?: { code?: string, message?: string } } | null} [status_details]
 * @property {Item[]} [output]
 * @property {Record<string, string> | null} [metadata] Holds the server's timings of the turn, in milliseconds.
 *
 * @typedef {object} ServerErrorBody
 * @property {string} [type]
 * @property {string | null} [code]
 * @property {string} message
 * @property {string | null} [event_id]
 */

/**
 * @typedef {{ type: "session.created" | "session.updated", session: { audio?: {
 *   input?: { turn_detection?: TurnDetection }, output?: { voice?: string } } } }} SessionEvent
 * @typedef {{ type: "input_audio_buffer.speech_started", item_id: string, audio_start_ms: number }} SpeechStarted
 * @typedef {{ type: "input_audio_buffer.speech_stopped", item_id: string, audio_end_ms: number }} SpeechStopped
 * @typedef {{ type: "input_audio_buffer.committed", item_id: string, previous_item_id?: string | null }} Committed
 * @typedef {{ type: "input_audio_buffer.cleared" }} InputCleared
 * @typedef {{ type: "conversation.item.added" | "conversation.item.done", item: Item, previous_item_id?: string | null }} ItemAdded
 * @typedef {{ type: "conversation.item.retrieved", item: Item }} ItemRetrieved
 * @typedef {{ type: "conversation.item.deleted", item_id: string }} ItemDeleted
 * @typedef {{ type: "conversation.item.truncated", item_id: string, audio_end_ms: number }} ItemTruncated
 * @typedef {{ type: "conversation.item.input_audio_transcription.delta", item_id: string, delta: string }} HeardDelta
 * @typedef {{ type: "conversation.item.input_audio_transcription.completed", item_id: string, transcript: string }} HeardDone
 * @typedef {{ type: "conversation.item.input_audio_transcription.failed", item_id: string }} HeardFailed
 * @typedef {{ type: "response.created" | "response.done", response: ResponseBody }} ResponseEvent
 * @typedef {{ type: "response.output_item.added" | "response.output_item.done", response_id: string, item: Item }} OutputItem
 * @typedef {{ type: "response.output_audio_transcript.delta" | "response.output_text.delta", response_id: string, item_id: string, delta: string }} AnswerDelta
 * @typedef {{ type: "response.output_audio_transcript.done", response_id: string, item_id: string, transcript: string }} SpokenDone
 * @typedef {{ type: "response.output_text.done", response_id: string, item_id: string, text: string }} WrittenDone
 * @typedef {{ type: "output_audio_buffer.started" | "output_audio_buffer.stopped" | "output_audio_buffer.cleared", response_id: string }} OutputBuffer
 * @typedef {{ type: "error", error: ServerErrorBody }} ServerError
 *
 * @typedef {SessionEvent | SpeechStarted | SpeechStopped | Committed | InputCleared | ItemAdded | ItemRetrieved | ItemDeleted
 *   | ItemTruncated | HeardDelta | HeardDone | HeardFailed | ResponseEvent | OutputItem | AnswerDelta | SpokenDone | WrittenDone
 *   | OutputBuffer | ServerError} ServerEvent
 */

/**
 * @typedef {{ type: string } | null} TurnDetection `null`: the page says when a turn ends.
 *
 * @typedef {{ type: "session.update", session: { type: "realtime", audio: {
 *   input?: { turn_detection: TurnDetection, transcription?: {} }, output?: { voice: string } } } }} SessionUpdate
 * @typedef {{ type: "input_audio_buffer.commit" | "input_audio_buffer.clear" }} InputBuffer
 * @typedef {{ type: "output_audio_buffer.clear" }} OutputClear
 * @typedef {{ type: "response.create" } | { type: "response.cancel" }} ResponseCommand
 * @typedef {{ type: "conversation.item.create", item: { id?: string, type: "message", role: Role,
 *   content: { type: "input_text" | "output_text", text: string }[] } }} ItemCreate
 * @typedef {{ type: "conversation.item.retrieve", item_id: string }} ItemRetrieve
 *
 * @typedef {SessionUpdate | InputBuffer | OutputClear | ResponseCommand | ItemCreate | ItemRetrieve} ClientEvent
 */

/**
 * Read one message of the data channel.
 *
 * An event of a type that this page does not know passes through: whoever handles events ignores it.
 *
 * @param {unknown} data
 * @returns {ServerEvent | null} `null` when the message is not a JSON object with a `type`.
 */
export function parseServerEvent(data) {
  if (typeof data !== "string") return null;
  try {
    const event = JSON.parse(data);
    return typeof event === "object" && event !== null && typeof event.type === "string" ? event : null;
  } catch {
    return null;
  }
}
