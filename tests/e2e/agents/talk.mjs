// The stock @openai/agents in Node holds three spoken turns over WebSocket and interrupts the second answer.
//   node talk.mjs URL KEY QUESTION     QUESTION: a file of PCM16 at 24 kHz
// Prints JSON: the history as the SDK has it, and of every answer the sound that was played (base64).
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { RealtimeAgent, RealtimeSession } from "@openai/agents/realtime";

const BYTES_MS = 48;
const FRAME_MS = 20;
const [url, apiKey, file] = process.argv.slice(2);
const question = readFileSync(file);

/** A loudspeaker: plays what it is given without gaps, and forgets on command what it has not played. */
const played = new Map();
let speaking = null;
let emptyAt = 0;
function play({ data, responseId }) {
  const now = performance.now();
  emptyAt = Math.max(emptyAt, now) + data.byteLength / BYTES_MS;
  speaking = responseId;
  played.set(responseId, Buffer.concat([played.get(responseId) ?? Buffer.alloc(0), Buffer.from(data)]));
}
function flush() {
  const unplayed = Math.round(Math.max(0, emptyAt - performance.now()) * BYTES_MS / 2) * 2;
  const sound = played.get(speaking);
  if (sound) played.set(speaking, sound.subarray(0, Math.max(0, sound.length - unplayed)));
  emptyAt = 0;
}

const session = new RealtimeSession(new RealtimeAgent({ name: "Agent", instructions: "Count." }), { transport: "websocket" });
const failures = [];
let done = 0;
session.on("audio", play);
session.on("audio_interrupted", flush);
session.on("error", (error) => failures.push(JSON.stringify(error)));
session.transport.on("turn_done", () => done++);

/** A microphone: never pauses. */
let toSay = Buffer.alloc(0);
let open = true;
async function microphone() {
  const begun = performance.now();
  for (let frame = 0; open; frame++) {
    const pcm = Buffer.alloc(FRAME_MS * BYTES_MS);
    toSay.copy(pcm, 0, 0, pcm.length);
    toSay = toSay.subarray(pcm.length);
    session.sendAudio(pcm.buffer.slice(pcm.byteOffset, pcm.byteOffset + pcm.length));
    await sleep(Math.max(0, begun + frame * FRAME_MS - performance.now()));
  }
}

async function until(true_, what) {
  const deadline = performance.now() + 60_000;
  while (!true_()) {
    if (performance.now() > deadline || failures.length) throw new Error(`${what} did not happen: ${failures}`);
    await sleep(5);
  }
}

await session.connect({ apiKey, url });
const talking = microphone();
toSay = question;
await until(() => done === 1, "the first answer");
toSay = question;
await until(() => played.size === 2, "the sound of the second answer");
await sleep(1300);
toSay = question;
await until(() => done === 2, "the end of the second answer");
await until(() => done === 3, "the third answer");
await sleep(300);
open = false;
await talking;
const history = session.history.map(({ role, status, content }) => ({ role, status, text: content[0]?.transcript ?? content[0]?.text }));
session.close();
const sounds = [...played.values()].map((sound) => sound.toString("base64"));
process.stdout.write(JSON.stringify({ history, sounds, failures }), () => process.exit(0));
