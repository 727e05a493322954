import assert from "node:assert/strict";
import { test } from "node:test";

import { replay as retell, stop } from "../commands.js";
import { EMPTY, hangUp, phase, reduce, splitHeard } from "../conversation.js";
import { parseServerEvent } from "../events.js";

const message = (id, role, extra = {}) => ({ id, type: "message", role, status: "in_progress", content: [], ...extra });

const SPOKEN_TURN = [
  { type: "input_audio_buffer.speech_started", item_id: "u1", audio_start_ms: 100 },
  { type: "conversation.item.input_audio_transcription.delta", item_id: "u1", delta: "what" },
  { type: "conversation.item.input_audio_transcription.delta", item_id: "u1", delta: " time" },
  { type: "input_audio_buffer.speech_stopped", item_id: "u1", audio_end_ms: 1500 },
  { type: "input_audio_buffer.committed", item_id: "u1", previous_item_id: null },
  { type: "conversation.item.added", item: message("u1", "user", { content: [{ type: "input_audio", transcript: null }] }) },
  { type: "conversation.item.done", item: message("u1", "user", { status: "completed", content: [{ type: "input_audio", transcript: null }] }) },
  { type: "response.created", response: { id: "r1", status: "in_progress" } },
  { type: "response.output_item.added", response_id: "r1", item: message("a1", "assistant") },
  { type: "conversation.item.added", item: message("a1", "assistant"), previous_item_id: "u1" },
  { type: "conversation.item.input_audio_transcription.completed", item_id: "u1", transcript: "What time is it?" },
  { type: "response.output_audio_transcript.delta", response_id: "r1", item_id: "a1", delta: "It is" },
  { type: "output_audio_buffer.started", response_id: "r1" },
  { type: "response.output_audio_transcript.delta", response_id: "r1", item_id: "a1", delta: " late, go to bed." },
];

const replay = (events, from = EMPTY) => events.reduce(reduce, from);

test("each moment of a spoken turn has its phase", () => {
  const phases = [];
  SPOKEN_TURN.reduce((state, event) => {
    const next = reduce(state, event);
    if (phases.at(-1) !== phase(next)) phases.push(phase(next));
    return next;
  }, EMPTY);
  const over = replay([
    ...SPOKEN_TURN,
    { type: "response.done", response: { id: "r1", status: "completed" } },
    { type: "output_audio_buffer.stopped", response_id: "r1" },
  ]);
  assert.deepEqual([...phases, phase(over)], ["hearing", "thinking", "speaking", "listening"]);
});

test("both sides are written down as they come, and the whole transcript replaces its pieces", () => {
  const state = replay(SPOKEN_TURN);
  assert.deepEqual(
    state.lines.map(({ role, text, status }) => [role, text, status]),
    [
      ["user", "What time is it?", "done"],
      ["assistant", "It is late, go to bed.", "open"],
    ],
  );
});

const INTERRUPTED = [
  ...SPOKEN_TURN,
  { type: "input_audio_buffer.speech_started", item_id: "u2", audio_start_ms: 3000 },
  { type: "response.output_audio_transcript.done", response_id: "r1", item_id: "a1", transcript: "It is late," },
  { type: "response.output_item.done", response_id: "r1", item: message("a1", "assistant", { status: "incomplete", content: [{ type: "output_audio", transcript: "It is late," }] }) },
  { type: "response.done", response: { id: "r1", status: "cancelled" } },
  { type: "output_audio_buffer.cleared", response_id: "r1" },
  { type: "conversation.item.truncated", item_id: "a1", audio_end_ms: 700 },
];

test("an interrupted answer keeps its words and shows which were heard", () => {
  const state = replay(INTERRUPTED);
  const answer = state.lines[1];
  assert.equal(answer.status, "cut");
  assert.deepEqual(splitHeard(answer), ["It is late,", " go to bed."]);
  assert.equal(phase(state), "hearing");
  assert.equal(state.lines[2].id, "u2");
});

test("the server's record of an interrupted answer decides what was heard", () => {
  const item = message("a1", "assistant", { content: [{ type: "output_audio", transcript: "It is" }] });
  const state = replay([...INTERRUPTED, { type: "conversation.item.retrieved", item }]);
  assert.deepEqual(splitHeard(state.lines[1]), ["It is", " late, go to bed."]);
});

test("an answer that was stopped before its first word leaves no line", () => {
  const state = replay([...SPOKEN_TURN.slice(0, 10), { type: "response.done", response: { id: "r1", status: "cancelled" } }]);
  assert.deepEqual(state.lines.map(({ id }) => id), ["u1"]);
  assert.equal(phase(state), "listening");
});

test("what was heard is matched by words, however it is spaced", () => {
  const line = { id: "a", role: "assistant", text: "one  two\nthree four", status: "cut", heard: "one two three", response: "r" };
  assert.deepEqual(splitHeard(line), ["one  two\nthree", " four"]);
  assert.deepEqual(splitHeard({ ...line, heard: "" }), ["", "one  two\nthree four"]);
  assert.deepEqual(splitHeard({ ...line, heard: "one two three four five" }), ["one  two\nthree four", ""]);
  assert.deepEqual(splitHeard({ ...line, heard: null }), [line.text, ""]);
});

test("an answer that played to its end is not cut by a late interruption", () => {
  const state = replay([
    ...SPOKEN_TURN,
    { type: "response.done", response: { id: "r1", status: "completed" } },
    { type: "output_audio_buffer.stopped", response_id: "r1" },
    { type: "input_audio_buffer.speech_started", item_id: "u2", audio_start_ms: 9000 },
  ]);
  assert.equal(state.lines[1].status, "done");
});

test("a turn of noise leaves nothing to wait for", () => {
  const state = replay([
    ...SPOKEN_TURN.slice(0, 1),
    ...SPOKEN_TURN.slice(3, 5),
    { type: "conversation.item.input_audio_transcription.completed", item_id: "u1", transcript: " " },
  ]);
  assert.equal(phase(state), "listening");
  assert.equal(state.lines[0].text, "");
});

test("a failed response frees the conversation and marks its line", () => {
  const state = replay([...SPOKEN_TURN.slice(0, 12), { type: "response.done", response: { id: "r1", status: "failed" } }]);
  assert.equal(phase(state), "listening");
  assert.equal(state.lines[1].status, "failed");
});

test("items take their place after the one they follow, once", () => {
  const first = { type: "conversation.item.added", item: message("b", "user", { content: [{ type: "input_text", text: "second" }] }) };
  const state = replay([
    { type: "conversation.item.added", item: message("a", "user", { content: [{ type: "input_text", text: "first" }] }) },
    first,
    first,
    { type: "conversation.item.added", item: message("c", "assistant"), previous_item_id: "a" },
    { type: "conversation.item.deleted", item_id: "b" },
  ]);
  assert.deepEqual(state.lines.map(({ id }) => id), ["a", "c"]);
});

test("hanging up keeps what was said and nothing that was in progress", () => {
  const state = hangUp(replay([...SPOKEN_TURN, { type: "input_audio_buffer.speech_started", item_id: "u2", audio_start_ms: 1 }]));
  assert.equal(phase(state), "listening");
  assert.deepEqual(state.lines.map(({ id, status }) => [id, status]), [["u1", "done"], ["a1", "done"]]);
});

test("events of no concern leave the very same state", () => {
  const state = replay(SPOKEN_TURN);
  for (const event of [
    { type: "rate_limits.updated" },
    { type: "conversation.item.truncated", item_id: "nobody", audio_end_ms: 1 },
    { type: "conversation.item.added", item: { id: "f", type: "function_call" } },
  ])
    assert.equal(reduce(state, event), state);
});

test("a message that is no event is refused", () => {
  assert.equal(parseServerEvent('{"type":"error","error":{"message":"m"}}').type, "error");
  for (const data of ["", "{", "[]", "null", '"text"', '{"type":3}', new ArrayBuffer(2)]) assert.equal(parseServerEvent(data), null);
});

test("a server that came back is told the last lines, of answers what was heard", () => {
  const { lines } = replay([...INTERRUPTED, { type: "conversation.item.input_audio_transcription.completed", item_id: "u2", transcript: "" }]);
  assert.deepEqual(retell(lines).map(({ item }) => [item.id, item.role, item.content]), [
    ["u1", "user", [{ type: "input_text", text: "What time is it?" }]],
    ["a1", "assistant", [{ type: "output_text", text: "It is late," }]],
  ]);
  const many = Array.from({ length: 20 }, (_, index) => ({ ...lines[0], id: `u${index}` }));
  assert.deepEqual(retell(many).map(({ item }) => item.id), ["u14", "u15", "u16", "u17", "u18", "u19"]);
});

test("only what is going on is stopped", () => {
  const types = (state) => stop(state).map(({ type }) => type);
  assert.deepEqual(types(EMPTY), []);
  assert.deepEqual(types({ ...EMPTY, response: "r" }), ["response.cancel"]);
  assert.deepEqual(types({ ...EMPTY, response: "r", sounding: "r" }), ["response.cancel", "output_audio_buffer.clear"]);
});
