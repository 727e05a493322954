import assert from "node:assert/strict";
import { test } from "node:test";

import { LatencyLog, measured, parts, percentile } from "../latency.js";

/** Speech from `from` to `until`, room noise before and after, a level every 20 ms. */
function speak(log, from, until, end) {
  for (let at = from - 500; at <= end; at += 20) log.microphone(at >= from && at < until ? -20 : -62, at);
}

function turn(log, response, start) {
  speak(log, start, start + 1000, start + 1400);
  log.event({ type: "input_audio_buffer.speech_stopped", item_id: "u", audio_end_ms: 0 }, start + 1400);
  log.event({ type: "input_audio_buffer.committed", item_id: "u" }, start + 1401);
  log.event({ type: "response.created", response: { id: response } }, start + 1402);
  log.event({ type: "response.output_audio_transcript.delta", response_id: response, item_id: "a", delta: "x" }, start + 1450);
  log.event({ type: "output_audio_buffer.started", response_id: response }, start + 1600);
  log.agent(-90, start + 1610);
  log.agent(-20, start + 1680);
  log.agent(-20, start + 1700);
}

test("every mark is measured from the last sound the user made", () => {
  const log = new LatencyLog();
  turn(log, "r1", 1000);
  log.event({ type: "response.done", response: { id: "r1" } }, 9000);
  assert.deepEqual(log.turns[0].marks, { end: 420, token: 470, audio: 620, played: 700 });
});

test("the room's noise is not taken for the user's voice", () => {
  const log = new LatencyLog();
  for (let at = 0; at < 5000; at += 20) log.microphone(-35 + (at % 40) / 20, at);
  const quiet = log.voicedAt;
  log.microphone(-12, 5000);
  assert.ok(quiet < 2500);
  assert.equal(log.voicedAt, 5000);
});

test("a turn that is interrupted before it is heard counts as unheard", () => {
  const log = new LatencyLog();
  speak(log, 1000, 2000, 2400);
  log.event({ type: "input_audio_buffer.committed", item_id: "u" }, 2400);
  log.event({ type: "response.created", response: { id: "r1" } }, 2401);
  log.event({ type: "input_audio_buffer.speech_started", item_id: "u2", audio_start_ms: 0 }, 2500);
  log.agent(-20, 2600);
  turn(log, "r2", 5000);
  assert.deepEqual(log.turns.map(({ marks }) => marks.played), [null, 700]);
  assert.deepEqual(measured(log.turns, "played"), [700]);
});

test("a turn that was ended by hand counts from when it was sent", () => {
  const log = new LatencyLog();
  log.sent(100);
  log.event({ type: "input_audio_buffer.committed", item_id: "u" }, 110);
  log.event({ type: "response.created", response: { id: "r" } }, 120);
  log.agent(-20, 350);
  assert.deepEqual(log.turns[0].marks, { end: 0, token: null, audio: null, played: 250 });
});

test("the server's timings are kept by name, and nothing else of the metadata", () => {
  const log = new LatencyLog();
  turn(log, "r1", 1000);
  const metadata = { first_token_ms: "31.5", end_of_turn_ms: "400", topic: "weather", empty_ms: "", broken_ms: "soon" };
  log.event({ type: "response.done", response: { id: "r1", metadata } }, 9000);
  log.event({ type: "response.done", response: { id: "unknown", metadata } }, 9000);
  assert.deepEqual(log.turns[0].server, { first_token_ms: 31.5, end_of_turn_ms: 400 });
  assert.deepEqual(log.turns[0].marks, { end: 420, token: 51.5, audio: 620, played: 700 });
});

test("the engine's parts come in their order, and only those that were told", () => {
  const log = new LatencyLog();
  turn(log, "r1", 1000);
  assert.deepEqual(parts(log.turns[0]), []);
  const metadata = { codec_ms: "1.0", queue_ms: "0.0", decode_ms: "57.3", total_ms: "900" };
  log.event({ type: "response.done", response: { id: "r1", metadata } }, 9000);
  assert.deepEqual(parts(log.turns[0]), [
    { name: "queue", ms: 0 },
    { name: "decode", ms: 57.3 },
    { name: "codec", ms: 1 },
  ]);
});

test("percentiles are values that were measured", () => {
  assert.equal(percentile([], 50), null);
  assert.equal(percentile([7], 95), 7);
  assert.equal(percentile([4, 1, 3, 2], 50), 2);
  assert.equal(percentile([4, 1, 3, 2], 95), 4);
  assert.equal(percentile(Array.from({ length: 100 }, (_, index) => index + 1), 95), 95);
});
