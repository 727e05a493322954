/**
 * One call to the server over WebRTC: audio both ways, events on the data channel `oai-events`.
 *
 * A call that is lost, or refused for now, is tried again with back-off until it is closed or refused for good.
 *
 * @import { Api } from "./api.js"
 * @import { ClientEvent, ServerEvent } from "./events.js"
 */

import { parseServerEvent } from "./events.js";
import { Failure } from "./failures.js";

/**
 * @typedef {{ state: "closed", failure: Failure | null }
 *   | { state: "connecting", attempt: number }
 *   | { state: "open" }
 *   | { state: "waiting", failure: Failure, until: number }} Status
 *   `until`: when the next attempt starts, on the clock of `performance.now()`.
 *
 * @typedef {object} Health Figures of the network, from the receiver's statistics.
 * @property {number | null} roundTrip Milliseconds.
 * @property {number} jitter Milliseconds.
 * @property {number} lost Packets of the answer that never came.
 * @property {number} concealed Milliseconds of the answer that the browser had to make up.
 *
 * @typedef {object} Handlers
 * @property {(event: ServerEvent) => void} event
 * @property {(status: Status) => void} status
 * @property {(stream: MediaStream) => void} stream The agent's voice.
 */

/** The server sends a packet every 20 ms, silence too: this long without one, and it is gone. */
const SILENT_NETWORK_MS = 3000;
/** From the server's answer to sound that can flow; ICE needs a fraction of a second where it works at all. */
const ICE_LIMIT_MS = 10_000;
/** Candidates of the own machine come at once; a dead STUN server must not hold up the offer. */
const GATHER_LIMIT_MS = 1000;

/**
 * How long to wait before the next attempt: 0.5 s, doubling to 8 s, or what the server asked for.
 *
 * Spread by up to a quarter, so that clients of a restarted server do not come back in step.
 *
 * @param {number} attempt 0 for the first retry.
 * @param {number | null} retryAfter Seconds.
 * @param {number} random In [0, 1).
 * @returns {number} Milliseconds.
 */
export function backOff(attempt, retryAfter, random) {
  const wait = retryAfter !== null ? Math.min(retryAfter, 30) * 1000 : Math.min(500 * 2 ** attempt, 8000);
  return wait * (1 + random / 4);
}

/** Rejects with the signal's reason when it aborts. @param {AbortSignal} signal @returns {Promise<never>} */
function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** @param {number} ms @returns {Promise<void>} */
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Connection {
  /**
   * @param {Api} api
   * @param {Handlers} handlers
   */
  constructor(api, handlers) {
    this.api = api;
    this.handlers = handlers;
    /** @type {AbortController | null} */
    this.lifetime = null;
    /** @type {MediaStreamTrack | null} */
    this.track = null;
    /** @type {RTCPeerConnection | null} */
    this.peer = null;
    /** @type {RTCDataChannel | null} */
    this.channel = null;
    /** Ends a wait between two attempts. @type {() => void} */
    this.hurry = () => {};
  }

  get isOpen() {
    return this.channel?.readyState === "open";
  }

  /**
   * Call the server, and keep calling until `close`.
   *
   * @param {MediaStreamTrack | null} track The microphone; without one the user can only type.
   */
  async open(track) {
    this.close();
    const lifetime = new AbortController();
    this.lifetime = lifetime;
    this.track = track;
    for (let attempt = 0; ; attempt++) {
      this.handlers.status({ state: "connecting", attempt });
      const failure = await this.#call(lifetime.signal, () => (attempt = -1));
      if (lifetime.signal.aborted) return;
      if (!failure.retry) {
        this.lifetime = null;
        this.handlers.status({ state: "closed", failure });
        return;
      }
      const wait = backOff(Math.max(attempt, 0), failure.retryAfter, Math.random());
      this.handlers.status({ state: "waiting", failure, until: performance.now() + wait });
      await Promise.race([sleep(wait), new Promise((resolve) => (this.hurry = () => resolve(undefined)))]);
      if (lifetime.signal.aborted) return;
    }
  }

  /** Hang up, and stop trying. @param {Failure | null} [failure] Why, unless the user wanted it. */
  close(failure = null) {
    if (!this.lifetime) return;
    this.lifetime.abort(new Error("closed"));
    this.lifetime = null;
    this.hurry();
    this.#drop();
    this.handlers.status({ state: "closed", failure });
  }

  /** @param {ClientEvent} event @returns {boolean} Whether there was an open channel to send it on. */
  send(event) {
    if (this.channel?.readyState !== "open") return false;
    this.channel.send(JSON.stringify(event));
    return true;
  }

  /** Speak through another microphone, without a new call. @param {MediaStreamTrack | null} track */
  async useTrack(track) {
    this.track = track;
    await this.peer?.getSenders()[0]?.replaceTrack(track);
  }

  /** @returns {Promise<Health | null>} */
  async health() {
    if (!this.peer) return null;
    /** @type {Health} */
    const health = { roundTrip: null, jitter: 0, lost: 0, concealed: 0 };
    for (const report of (await this.peer.getStats()).values()) {
      if (report.type === "inbound-rtp" && report.kind === "audio") {
        health.jitter = (report.jitter ?? 0) * 1000;
        health.lost = report.packetsLost ?? 0;
        health.concealed = ((report.concealedSamples ?? 0) - (report.silentConcealedSamples ?? 0)) / 48;
      }
      if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined)
        health.roundTrip = report.currentRoundTripTime * 1000;
    }
    return health;
  }

  /**
   * One attempt: returns why it ended.
   *
   * @param {AbortSignal} signal
   * @param {() => void} opened Called once events can flow.
   * @returns {Promise<Failure>}
   */
  async #call(signal, opened) {
    const peer = new RTCPeerConnection({ iceServers: [] });
    const channel = peer.createDataChannel("oai-events");
    this.peer = peer;
    this.channel = channel;
    const remote = new MediaStream();
    peer.addEventListener("track", ({ track }) => {
      remote.addTrack(track);
      this.handlers.stream(remote);
    });
    channel.addEventListener("message", ({ data }) => {
      const event = this.channel === channel ? parseServerEvent(data) : null;
      if (event) this.handlers.event(event);
    });
    try {
      const gone = aborted(signal);
      gone.catch(() => {});
      await Promise.race([this.#offer(peer, signal), gone]);
      await Promise.race([isOpen(peer, channel), gone, sleep(ICE_LIMIT_MS).then(() => Promise.reject(new Failure("blocked")))]);
      opened();
      this.handlers.status({ state: "open" });
      await Promise.race([isLost(peer, channel), gone]);
      return new Failure("lost");
    } catch (error) {
      return error instanceof Failure ? error : new Failure("lost");
    } finally {
      if (this.peer === peer) this.#drop();
      else peer.close();
    }
  }

  /**
   * Exchange descriptions with the server. No candidate is sent later, so they are gathered first.
   *
   * @param {RTCPeerConnection} peer
   * @param {AbortSignal} signal
   */
  async #offer(peer, signal) {
    const sender = peer.addTransceiver("audio", { direction: "sendrecv" }).sender;
    await sender.replaceTrack(this.track);
    await peer.setLocalDescription();
    const gathered = new Promise((resolve) => {
      const check = () => peer.iceGatheringState === "complete" && resolve(undefined);
      peer.addEventListener("icegatheringstatechange", check);
      check();
    });
    await Promise.race([gathered, sleep(GATHER_LIMIT_MS)]);
    const answer = await this.api.post("v1/realtime/calls", "application/sdp", peer.localDescription?.sdp ?? "", signal);
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  }

  #drop() {
    this.channel?.close();
    this.peer?.close();
    this.channel = null;
    this.peer = null;
  }
}

/**
 * Resolves when the data channel is open.
 *
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} channel
 * @returns {Promise<void>}
 */
function isOpen(peer, channel) {
  return new Promise((resolve, reject) => {
    channel.addEventListener("open", () => resolve());
    channel.addEventListener("close", () => reject(new Failure("lost")));
    peer.addEventListener("connectionstatechange", () => {
      if (peer.connectionState === "failed") reject(new Failure("blocked"));
    });
    if (channel.readyState === "open") resolve();
  });
}

/**
 * Resolves when the server is gone: it closed the channel, ICE failed, or its packets stopped coming.
 *
 * The last is what finds a killed server or a pulled cable in seconds; ICE alone takes half a minute.
 *
 * @param {RTCPeerConnection} peer
 * @param {RTCDataChannel} channel
 * @returns {Promise<void>}
 */
function isLost(peer, channel) {
  return new Promise((resolve) => {
    let received = -1;
    let since = performance.now();
    const timer = setInterval(async () => {
      let packets = 0;
      for (const report of (await peer.getStats()).values())
        if (report.type === "inbound-rtp" && report.kind === "audio") packets += report.packetsReceived ?? 0;
      if (packets !== received) {
        received = packets;
        since = performance.now();
      } else if (performance.now() - since > SILENT_NETWORK_MS) done();
    }, 500);
    const done = () => {
      clearInterval(timer);
      resolve();
    };
    channel.addEventListener("close", done);
    peer.addEventListener("connectionstatechange", () => {
      if (peer.connectionState === "failed" || peer.connectionState === "closed") done();
    });
  });
}
