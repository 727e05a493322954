/**
 * Where the time of a turn goes: from the last sound the user made to the first sound of the answer at the loudspeaker.
 *
 * Every mark is in milliseconds since that last sound. The page measures it at its own microphone and loudspeaker,
 * which is what a person feels. What happens inside the server is told by the metadata of `response.done`, in
 * milliseconds since the same sound as it reached the server; where a server tells nothing, the arrival of its events
 * stands in. Time comes in with each call, so that a test can replay a turn.
 *
 * @import { ServerEvent } from "./events.js"
 */

/**
 * @typedef {object} Marks
 * @property {number | null} end The server decided that the turn is over.
 * @property {number | null} token The first token of the answer.
 * @property {number | null} audio The first sound of the answer left the server.
 * @property {number | null} played The first sound of the answer was audible here.
 *
 * @typedef {object} Turn
 * @property {number} number 1 for the first.
 * @property {string | null} response
 * @property {number} from When the user's last sound was, or when a typed turn or a held button was sent; page time.
 * @property {Marks} marks
 * @property {Pick<Marks, "token" | "audio">} arrived When the events that tell of them came here.
 * @property {Record<string, number>} server The server's timings, by their names in the protocol.
 */

/**
 * What the first sound took of an engine that many share, where the server tells it: waiting for others' work, reading
 * the turn, drawing the answer's first units, and making them sound. In the order in which they come.
 */
export const PARTS = /** @type {const} */ (["queue", "prefill", "decode", "flow", "codec"]);

/** The marks in the order they come in. */
export const MARKS = /** @type {const} */ (["end", "token", "audio", "played"]);

/** An answer is audible above this, in dBFS: the server sends digital silence, and the codec's is far below. */
const AUDIBLE = -50;
/** The user is heard this many dB above the noise of the room... */
const ABOVE_NOISE = 12;
/** ...and never below this many dBFS. */
const QUIETEST_VOICE = -60;
/** How fast the estimate of the room's noise rises, in dB per second. It falls at once. */
const NOISE_RISE = 3;

export class LatencyLog {
  constructor() {
    /** @type {Turn[]} */
    this.turns = [];
    /** The turn whose answer has not been heard. @type {Turn | null} */
    this.pending = null;
    this.noise = -50;
    this.voicedAt = 0;
    this.measuredAt = 0;
  }

  /** @param {number} level dBFS at the microphone. @param {number} at */
  microphone(level, at) {
    const rise = (NOISE_RISE * Math.max(at - this.measuredAt, 0)) / 1000;
    this.noise = Math.min(level, this.noise + rise);
    this.measuredAt = at;
    if (level > Math.max(this.noise + ABOVE_NOISE, QUIETEST_VOICE)) this.voicedAt = at;
  }

  /** @param {number} level dBFS of the answer. @param {number} at */
  agent(level, at) {
    if (level < AUDIBLE || !this.pending?.response) return;
    this.#mark("played", at);
    this.pending = null;
  }

  /** The user ended a turn by hand: typed it, or let go of the button. @param {number} at */
  sent(at) {
    this.#begin(at);
    this.#mark("end", at);
  }

  /** @param {ServerEvent} event @param {number} at */
  event(event, at) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.pending = null;
        break;
      case "input_audio_buffer.speech_stopped":
      case "input_audio_buffer.committed":
        if (!this.pending || this.pending.response) this.#begin(this.voicedAt || at);
        this.#mark("end", at);
        break;
      case "response.created":
        if (this.pending && !this.pending.response) {
          this.pending.response = event.response.id;
          this.turns.push(this.pending);
        }
        break;
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta":
        if (this.pending?.response === event.response_id) this.pending.arrived.token ??= at - this.pending.from;
        break;
      case "output_audio_buffer.started":
        if (this.pending?.response === event.response_id) this.pending.arrived.audio ??= at - this.pending.from;
        break;
      case "response.done":
        this.#server(event.response.id, event.response.metadata ?? {});
        break;
      default:
    }
  }

  /** @param {number} from */
  #begin(from) {
    this.pending = {
      number: this.turns.length + 1,
      response: null,
      from,
      arrived: { token: null, audio: null },
      marks: { end: null, token: null, audio: null, played: null },
      server: {},
    };
  }

  /** @param {keyof Marks} name @param {number} at */
  #mark(name, at) {
    if (this.pending) this.pending.marks[name] ??= at - this.pending.from;
  }

  /** @param {string} response @param {Record<string, string>} metadata */
  #server(response, metadata) {
    const turn = this.turns.find((other) => other.response === response);
    if (!turn) return;
    for (const [name, value] of Object.entries(metadata))
      if (name.endsWith("_ms") && value !== "" && Number.isFinite(Number(value))) turn.server[name] = Number(value);
    // The two timelines are joined at the end of the turn, the instant that both know.
    const { end_of_turn_ms: end, first_token_ms: token, first_audio_ms: audio } = turn.server;
    const shift = turn.marks.end !== null && end !== undefined ? turn.marks.end - end : 0;
    turn.marks.token = token === undefined ? turn.arrived.token : Math.max(token + shift, 0);
    turn.marks.audio = audio === undefined ? turn.arrived.audio : Math.max(audio + shift, 0);
  }
}

/**
 * The parts that the server told of a turn, in milliseconds.
 *
 * @param {Turn} turn
 * @returns {{ name: string, ms: number }[]} Nothing of a server that tells none.
 */
export function parts(turn) {
  return PARTS.map((name) => ({ name, ms: turn.server[`${name}_ms`] })).filter(
    /** @returns {part is { name: (typeof PARTS)[number], ms: number }} */ (part) => part.ms !== undefined,
  );
}

/**
 * A percentile by nearest rank: a value that was measured, not one in between.
 *
 * @param {readonly number[]} values
 * @param {number} percent In (0, 100].
 * @returns {number | null} `null` without values.
 */
export function percentile(values, percent) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(Math.ceil((percent / 100) * sorted.length) - 1, 0)] ?? null;
}

/**
 * What was measured for one mark, over all turns.
 *
 * @param {readonly Turn[]} turns
 * @param {keyof Marks} mark
 * @returns {number[]}
 */
export function measured(turns, mark) {
  return turns.map((turn) => turn.marks[mark]).filter((value) => value !== null);
}
