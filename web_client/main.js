/**
 * The page: joins the call, the conversation's state and what is drawn.
 *
 * Events change the state (conversation.js, latency.js), the state is drawn, and the user's gestures become events of the
 * public protocol. Nothing here knows how any of these is done.
 *
 * @import { Status } from "./connection.js"
 * @import { Conversation } from "./conversation.js"
 * @import { ClientEvent, ResponseBody, ServerErrorBody, ServerEvent, TurnDetection } from "./events.js"
 */

import { Api } from "./api.js";
import { Captions } from "./captions.js";
import { ANSWER, endTurnsBy, replay, speakWith, stop, write } from "./commands.js";
import { Connection } from "./connection.js";
import { EMPTY, hangUp, phase, reduce } from "./conversation.js";
import { element, say } from "./dom.js";
import { Failure, sentence, sessionEnd } from "./failures.js";
import { LatencyLog } from "./latency.js";
import { LatencyPanel } from "./latencypanel.js";
import { LevelMeter, loudness } from "./levels.js";
import { openMicrophone } from "./microphone.js";
import { Notice } from "./notice.js";
import { loadSettings, saveSettings } from "./settings.js";
import { SettingsDialog } from "./settingsdialog.js";
import { stage } from "./stage.js";
import { watchTalkButton } from "./talk.js";
import { VoicePicker } from "./voicepicker.js";
import { Waveform } from "./waveform.js";

/** Sound still on its way when the button is released belongs to the turn. */
const RELEASE_TAIL_MS = 180;

const talkButton = element("talk", HTMLButtonElement);
const stageArea = element("stage", HTMLElement);
const agentAudio = element("agent", HTMLAudioElement);
const notice = new Notice();

const settings = loadSettings(localStorage);
const api = new Api(() => settings.token);
const log = new LatencyLog();
const panel = new LatencyPanel(log);
const captions = new Captions(
  element("captions", HTMLOListElement),
  element("conversation", HTMLElement),
  element("announce", HTMLElement),
);
const waveform = new Waveform(element("waveform", HTMLCanvasElement), { clearance: 92 });
const connection = new Connection(api, { event: onEvent, status: onStatus, stream: onRemoteStream });

/** @type {Conversation} */
let conversation = EMPTY;
/** @type {Status} */
let status = { state: "closed", failure: null };
/** @type {MediaStream | null} */
let microphone = null;
/** @type {{ user: LevelMeter, agent: LevelMeter } | null} */
let meters = null;
/** How this server ends turns when it is left to do so. @type {TurnDetection} */
let serverTurns = { type: "server_vad" };
let muted = false;
let held = false;
/** The button was released, and the tail of the turn is on its way. */
let releasing = 0;
/** A dialog is recording: the agent must not hear it. */
let hushed = false;
/** Typed while there was no connection. @type {string[]} */
let unsent = [];

// The call -------------------------------------------------------------------------------------------------------

/** Begin a conversation. Must be called by a gesture: only then may sound play. */
async function start() {
  notice.hide();
  prepareSound();
  conversation = EMPTY;
  muted = false;
  status = { state: "connecting", attempt: 0 };
  draw();
  try {
    microphone = await openMicrophone(settings);
  } catch (error) {
    microphone = null;
    status = { state: "closed", failure: null };
    notice.show(error instanceof Failure ? error : new Failure("missing"));
    draw();
    return;
  }
  if (status.state !== "connecting") return releaseMicrophone();
  settingsDialog.listMicrophones();
  meters?.user.listenTo(microphone);
  applyMicrophone();
  await connection.open(microphone.getAudioTracks()[0] ?? null);
}

/** Begin a conversation in which the user only types. */
function startTyping() {
  prepareSound();
  conversation = EMPTY;
  connection.open(null);
}

function end() {
  status = { state: "closed", failure: null };
  connection.close();
  releaseMicrophone();
  draw();
}

function releaseMicrophone() {
  for (const track of microphone?.getTracks() ?? []) track.stop();
  microphone = null;
  meters?.user.listenTo(null);
}

/** The first gesture allows sound; without one a context stays suspended. */
function prepareSound() {
  if (!meters) {
    const context = new AudioContext();
    meters = { user: new LevelMeter(context), agent: new LevelMeter(context) };
    requestAnimationFrame(measure);
  }
  meters.user.context.resume();
}

/** @param {Status} next */
function onStatus(next) {
  status = next;
  if (next.state === "open") notice.hide();
  if (next.state !== "open") {
    conversation = hangUp(conversation);
    held = false;
    meters?.agent.listenTo(null);
  }
  if ((next.state === "waiting" || next.state === "closed") && next.failure) notice.show(next.failure);
  if (next.state === "closed") releaseMicrophone();
  draw();
}

/** @param {MediaStream} stream */
function onRemoteStream(stream) {
  // Browsers feed a remote stream to an analyser only while an element plays it.
  agentAudio.srcObject = stream;
  agentAudio.play().catch(() => notice.show(new Failure("refused", { title: "The browser holds the sound back", advice: "Press the button to let it play." })));
  meters?.agent.listenTo(stream);
}

/** @param {ServerEvent} event */
function onEvent(event) {
  const now = performance.now();
  conversation = reduce(conversation, event);
  log.event(event, now);
  switch (event.type) {
    case "session.created":
      if (event.session.audio?.input?.turn_detection) serverTurns = event.session.audio.input.turn_detection;
      resume();
      break;
    case "output_audio_buffer.cleared":
      // The server is silent already: what the browser still has buffered of the answer need not be heard to its end.
      agentAudio.muted = true;
      break;
    case "response.created":
      agentAudio.muted = false;
      break;
    case "conversation.item.truncated":
      // What was heard is the server's knowledge: it counts what it played.
      send([{ type: "conversation.item.retrieve", item_id: event.item_id }]);
      break;
    case "response.done":
      noAnswer(event.response);
      break;
    case "error":
      onError(event.error);
      break;
    default:
  }
  draw();
}

/** @param {ServerErrorBody} error */
function onError(error) {
  const end = sessionEnd(error);
  if (end) connection.close(end);
  else notice.show(new Failure("refused", { advice: sentence(error.message) }), "briefly");
}

/** @param {ResponseBody} response */
function noAnswer({ status: outcome, status_details: details }) {
  // A cough gets no answer, and needs no message.
  if (outcome !== "failed" || details?.error?.code === "no_speech") return;
  notice.show(new Failure("refused", { title: "No answer this time", advice: sentence(details?.error?.message ?? "") }), "briefly");
}

/** Tell a new session what the user chose, what was said before, and what was typed meanwhile. */
function resume() {
  send(endTurnsBy(turns()), speakWith(settings.voice), replay(conversation.lines));
  for (const text of unsent.splice(0)) sendText(text);
}

/** @param {...readonly ClientEvent[]} commands */
function send(...commands) {
  for (const event of commands.flat()) connection.send(event);
}

/** @returns {TurnDetection} */
const turns = () => (settings.mode === "hold" ? null : serverTurns);

/** @param {string} text */
function sendText(text) {
  send(stop(conversation), write(text));
  log.sent(performance.now());
}

// Gestures -------------------------------------------------------------------------------------------------------

function applyMicrophone() {
  const on = !hushed && (settings.mode === "hold" ? held : !muted);
  for (const track of microphone?.getAudioTracks() ?? []) track.enabled = on;
}

const here = () =>
  stage({
    status,
    phase: phase(conversation),
    mode: settings.mode,
    microphone: microphone !== null,
    muted,
    held,
    keyboard: matchMedia("(hover: hover)").matches,
    now: performance.now(),
  });

function tap() {
  switch (here().action) {
    case "start":
      start();
      break;
    case "cancel":
      end();
      break;
    case "retry":
      connection.hurry();
      break;
    case "stop":
      send(stop(conversation));
      break;
    case "mute":
      muted = true;
      break;
    case "unmute":
      muted = false;
      if (!microphone) switchMicrophone();
      break;
    case "hold":
  }
  applyMicrophone();
  draw();
}

function press() {
  // A bounce of the finger does not end the turn.
  if (releasing) {
    clearTimeout(releasing);
    releasing = 0;
    return;
  }
  send(stop(conversation), [{ type: "input_audio_buffer.clear" }]);
  held = true;
  applyMicrophone();
  draw();
}

function release() {
  if (!held || releasing) return;
  releasing = setTimeout(() => {
    releasing = 0;
    held = false;
    applyMicrophone();
    send(ANSWER);
    log.sent(performance.now());
    draw();
  }, RELEASE_TAIL_MS);
}

/** Open the chosen microphone and speak through it in the same call. */
async function switchMicrophone() {
  try {
    const next = await openMicrophone(settings);
    releaseMicrophone();
    microphone = next;
    meters?.user.listenTo(microphone);
    await connection.useTrack(microphone.getAudioTracks()[0] ?? null);
    applyMicrophone();
  } catch (error) {
    notice.show(error instanceof Failure ? error : new Failure("missing"));
  }
  draw();
}

watchTalkButton(talkButton, { holding: () => here().action === "hold", tap, press, release });
element("end", HTMLButtonElement).addEventListener("click", end);
// A tab that is closed says no good-bye by itself, and its slot would stay taken for some seconds.
addEventListener("pagehide", () => connection.close());
element("type", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  const input = element("type-text", HTMLInputElement);
  const text = input.value.trim();
  if (!text) return;
  input.value = "";
  if (connection.isOpen) sendText(text);
  else {
    unsent.push(text);
    if (status.state === "closed") startTyping();
  }
});

const settingsDialog = new SettingsDialog(settings, (changed) => {
  saveSettings(localStorage, settings);
  if (changed === "mode") {
    send(endTurnsBy(turns()));
    applyMicrophone();
  } else if (changed === "token") voices.load();
  else if (microphone) switchMicrophone();
  draw();
});

const latencyToggle = element("latency-toggle", HTMLButtonElement);
latencyToggle.addEventListener("click", () => {
  settings.latency = !settings.latency;
  saveSettings(localStorage, settings);
  draw();
});

// Voices ---------------------------------------------------------------------------------------------------------

const voices = new VoicePicker(api, settings, {
  chosen: () => {
    saveSettings(localStorage, settings);
    send(speakWith(settings.voice));
  },
  loaded: () => {
    if (status.state === "closed" && !status.failure) notice.hide();
  },
  failed: (failure) => {
    if (status.state === "closed") notice.show(failure);
  },
  hush: (on) => {
    hushed = on;
    applyMicrophone();
  },
});

// Drawing --------------------------------------------------------------------------------------------------------

const LINK = { closed: "Not connected", connecting: "Connecting", open: "Connected", waiting: "Reconnecting" };

function draw() {
  const { look, title, label, hint } = here();
  stageArea.dataset["look"] = look;
  say(element("state", HTMLElement), title);
  say(element("hint", HTMLElement), hint);
  talkButton.setAttribute("aria-label", label);
  const link = element("link", HTMLElement);
  link.dataset["state"] = status.state;
  say(link, LINK[status.state]);
  element("end", HTMLButtonElement).hidden = status.state === "closed";
  element("welcome", HTMLElement).hidden = conversation.lines.length > 0;
  captions.draw(conversation.lines);
  element("latency", HTMLElement).hidden = !settings.latency;
  latencyToggle.setAttribute("aria-expanded", String(settings.latency));
  panel.draw();
}

/** Once a frame: levels to the waveform, the button's halo and the latency log. @param {number} now */
function measure(now) {
  requestAnimationFrame(measure);
  if (!meters) return;
  const user = meters.user.level();
  const agent = meters.agent.level();
  log.microphone(user, now);
  log.agent(agent, now);
  waveform.push(user, agent, now);
  stageArea.style.setProperty("--level", Math.max(loudness(user), loudness(agent)).toFixed(3));
}

setInterval(async () => {
  if (status.state === "waiting") draw();
  if (!settings.latency) return;
  panel.draw();
  panel.drawNetwork(await connection.health());
}, 500);

if (!window.isSecureContext) notice.show(new Failure("insecure"));
else voices.load();
draw();
