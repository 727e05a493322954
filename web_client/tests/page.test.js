import assert from "node:assert/strict";
import { test } from "node:test";

import { backOff } from "../connection.js";
import { Failure, callFailure, microphoneFailure, sessionEnd } from "../failures.js";
import { loudness } from "../levels.js";
import { DEFAULTS, loadSettings, saveSettings } from "../settings.js";
import { stage } from "../stage.js";
import { SAMPLE_RATE, encodeWav, firstSpeech } from "../wav.js";

const named = (name) => Object.assign(new Error(name), { name });

test("every refusal of a microphone has its own words", () => {
  const kinds = ["NotAllowedError", "NotFoundError", "NotReadableError", "SecurityError", "TypeError"].map((name) => microphoneFailure(named(name)).kind);
  assert.deepEqual(kinds, ["denied", "missing", "busy", "insecure", "missing"]);
});

test("every refusal of a call has its own words, and only passing ones are retried", () => {
  const full = callFailure(503, '{"error":{"code":"session_limit_reached","message":"full"}}', "7");
  assert.deepEqual([full.kind, full.retry, full.retryAfter], ["full", true, 7]);
  const warming = callFailure(503, "not ready", null);
  assert.deepEqual([warming.kind, warming.retry, warming.retryAfter], ["warming", true, null]);
  assert.equal(callFailure(502, "<html>", null).kind, "unreachable");
  assert.deepEqual([callFailure(401, "", null).kind, callFailure(401, "", null).retry], ["token", false]);
  const refused = callFailure(400, '{"error":{"message":"the offer has no audio"}}', null);
  assert.deepEqual([refused.kind, refused.retry, refused.advice], ["refused", false, "The offer has no audio."]);
  const addressless = callFailure(503, '{"error":{"code":"no_address","message":"set ice_addresses"}}', null);
  assert.deepEqual([addressless.kind, addressless.advice], ["refused", "Set ice_addresses."]);
  assert.match(callFailure(418, "", null).advice, /418/);
});

test("a session that the server ends by its rules is not called again", () => {
  const end = sessionEnd({ code: "session_idle", message: "nobody has spoken for 300 s: the session ends" });
  assert.deepEqual([end.kind, end.retry, end.advice], ["ended", false, "Nobody has spoken for 300 s: the session ends."]);
  assert.equal(sessionEnd({ code: "engine_error", message: "" }), null);
});

test("back-off doubles to a limit, is spread, and obeys the server", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 9].map((attempt) => backOff(attempt, null, 0)), [500, 1000, 2000, 4000, 8000, 8000]);
  assert.equal(backOff(0, null, 0.8), 600);
  assert.equal(backOff(9, 3, 0), 3000);
  assert.equal(backOff(0, 3600, 0), 30_000);
});

test("settings come back as they were kept, whatever else the storage holds", () => {
  const storage = new Map();
  const local = { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) };
  assert.deepEqual(loadSettings(local), DEFAULTS);
  const chosen = { mode: "hold", microphone: "usb", voice: "anna", clean: false, token: "t", latency: true };
  saveSettings(local, chosen);
  assert.deepEqual(loadSettings(local), chosen);
  for (const broken of ["", "{", "null", "[]", '{"mode":"sideways","voice":7,"clean":"yes"}'])
    assert.deepEqual(loadSettings({ getItem: () => broken }), DEFAULTS);
  const forbidden = { getItem: () => { throw named("SecurityError"); }, setItem: () => { throw named("QuotaExceededError"); } };
  assert.deepEqual(loadSettings(forbidden), DEFAULTS);
  saveSettings(forbidden, chosen);
});

const CALM = { status: { state: "open" }, phase: "listening", mode: "open", microphone: true, muted: false, held: false, keyboard: true, now: 0 };

test("the button does what its label says in every situation", () => {
  const action = (change) => stage({ ...CALM, ...change }).action;
  assert.equal(action({ status: { state: "closed", failure: null } }), "start");
  assert.equal(action({ status: { state: "connecting", attempt: 0 } }), "cancel");
  assert.equal(action({}), "mute");
  assert.equal(action({ muted: true }), "unmute");
  assert.equal(action({ microphone: false, mode: "hold" }), "unmute");
  assert.equal(action({ phase: "hearing" }), "mute");
  assert.equal(action({ phase: "thinking" }), "stop");
  assert.equal(action({ phase: "speaking", muted: true }), "stop");
  for (const phase of ["listening", "hearing", "thinking", "speaking"]) assert.equal(action({ mode: "hold", phase }), "hold");
  const waiting = stage({ ...CALM, status: { state: "waiting", failure: new Failure("lost"), until: 3400 }, now: 1000 });
  assert.deepEqual([waiting.title, waiting.action], ["Trying again in 3 s", "retry"]);
  assert.equal(stage({ ...CALM, mode: "hold", held: true }).look, "hearing");
});

test("a voice is cut to its first three seconds of speech", () => {
  const recording = new Float32Array(6 * SAMPLE_RATE).fill(0.3, SAMPLE_RATE);
  const speech = firstSpeech(recording);
  assert.equal(speech.length, 3 * SAMPLE_RATE);
  assert.equal(speech.findIndex((sample) => sample > 0), SAMPLE_RATE / 10);
  assert.equal(firstSpeech(new Float32Array(SAMPLE_RATE)).length, 0);
});

test("a WAV file holds the samples as 16-bit PCM, clipped", () => {
  const view = new DataView(encodeWav(Float32Array.of(0, 0.5, -1, 2)));
  const text = (at, length) => String.fromCharCode(...new Uint8Array(view.buffer, at, length));
  assert.equal(text(0, 4) + text(8, 8) + text(36, 4), "RIFFWAVEfmt data");
  assert.deepEqual([view.byteLength, view.getUint32(4, true), view.getUint32(40, true)], [52, 44, 8]);
  assert.deepEqual([view.getUint16(22, true), view.getUint32(24, true), view.getUint16(34, true)], [1, 16000, 16]);
  assert.deepEqual([44, 46, 48, 50].map((at) => view.getInt16(at, true)), [0, 16384, -32767, 32767]);
});

test("loudness grows from silence to a shout", () => {
  assert.equal(loudness(-90), 0);
  assert.equal(loudness(0), 1);
  assert.ok(loudness(-40) < loudness(-25) && loudness(-25) < loudness(-12));
});
