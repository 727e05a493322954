// The stock @openai/agents in a browser, over WebRTC. `start` connects; `say` speaks into the microphone; `heard` ends the
// recording of the loudspeaker.
import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession } from "/sdk/openai-realtime-agents.mjs";

const context = new AudioContext({ sampleRate: 48_000 });
const microphone = context.createMediaStreamDestination();
const loudspeaker = document.querySelector("audio");
let question, session, recorder;
const recorded = [];
const state = { done: 0, sounding: 0, failures: [] };

window.state = state;
window.start = async (url, apiKey, samples) => {
  await context.resume();
  question = context.createBuffer(1, samples.length, 48_000);
  question.copyToChannel(new Float32Array(samples), 0);
  const transport = new OpenAIRealtimeWebRTC({ baseUrl: url, mediaStream: microphone.stream, audioElement: loudspeaker });
  session = new RealtimeSession(new RealtimeAgent({ name: "Agent", instructions: "Count." }), { transport });
  session.on("error", (error) => state.failures.push(JSON.stringify(error)));
  transport.on("turn_done", () => state.done++);
  transport.on("*", ({ type }) => (state.sounding += type === "output_audio_buffer.started"));
  await session.connect({ apiKey });
  while (!loudspeaker.srcObject) await new Promise((resolve) => setTimeout(resolve, 10));
  recorder = new MediaRecorder(loudspeaker.srcObject, { audioBitsPerSecond: 128_000 });
  recorder.ondataavailable = ({ data }) => recorded.push(data);
  recorder.start(200);
};
window.say = () => {
  const source = new AudioBufferSourceNode(context, { buffer: question });
  source.connect(microphone);
  source.start();
};
window.heard = async () => {
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.stop();
  await stopped;
  const reader = new FileReader();
  reader.readAsDataURL(new Blob(recorded));
  await new Promise((resolve) => (reader.onload = resolve));
  const history = session.history.map(({ role, status, content }) => ({ role, status, text: content[0]?.transcript ?? content[0]?.text }));
  session.close();
  return { history, recording: reader.result.split(",")[1] };
};
