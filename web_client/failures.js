/**
 * Every way in which talking can fail, in words that say what happened and what to do about it.
 */

/**
 * @typedef {"insecure" | "denied" | "missing" | "busy" | "full" | "warming" | "unreachable" | "blocked" | "lost"
 *   | "ended" | "token" | "refused"} FailureKind
 */

/** @type {Record<FailureKind, { title: string, advice: string, retry: boolean }>} */
const WORDS = {
  insecure: {
    title: "The microphone needs a secure page",
    advice: "Browsers allow it only on https:// or localhost. Open the page on the server's own machine, or serve it over https. You can still type.",
    retry: false,
  },
  denied: {
    title: "The microphone is blocked",
    advice: "Allow it for this page in the browser's address bar, then press the button again. You can still type.",
    retry: false,
  },
  missing: {
    title: "No microphone found",
    advice: "Plug one in or choose another in Settings, then press the button again. You can still type.",
    retry: false,
  },
  busy: {
    title: "The microphone is in use",
    advice: "Close the program that holds it, or choose another in Settings. You can still type.",
    retry: false,
  },
  full: { title: "The server is full", advice: "All of its places are taken. You get the next free one.", retry: true },
  warming: { title: "The server is not ready yet", advice: "It is still loading its voice.", retry: true },
  unreachable: { title: "The server cannot be reached", advice: "It may be restarting, or the network is down.", retry: true },
  blocked: {
    title: "The sound could not get through",
    advice: "The server answered, but no audio connection came about: a firewall may block UDP, or a TURN server is needed.",
    retry: true,
  },
  lost: { title: "The connection was lost", advice: "What was said is kept.", retry: true },
  ended: { title: "The conversation has ended", advice: "Press the button to begin another.", retry: false },
  token: { title: "This server asks for a token", advice: "Enter it in Settings, then press the button again.", retry: false },
  refused: { title: "The server said no", advice: "", retry: false },
};

/** A failure that the page can explain. `message` is a log line, `title` and `advice` are for people. */
export class Failure extends Error {
  /**
   * @param {FailureKind} kind
   * @param {{ title?: string, advice?: string, retryAfter?: number | null }} [details] Words that fit better than the
   *   kind's own; `retryAfter`: seconds the server asked us to wait.
   */
  constructor(kind, { title, advice, retryAfter = null } = {}) {
    const words = WORDS[kind];
    super(title || words.title);
    this.name = "Failure";
    this.kind = kind;
    this.title = title || words.title;
    this.advice = advice || words.advice;
    this.retry = words.retry;
    this.retryAfter = retryAfter;
  }
}

/**
 * Why getUserMedia did not give a microphone.
 *
 * @param {unknown} error
 * @returns {Failure}
 */
export function microphoneFailure(error) {
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  if (name === "NotAllowedError") return new Failure("denied");
  if (name === "SecurityError") return new Failure("insecure");
  if (name === "NotReadableError" || name === "AbortError") return new Failure("busy");
  return new Failure("missing");
}

/**
 * Why the server did not do what it was asked.
 *
 * @param {number} status HTTP status.
 * @param {string} body JSON `{error: {code, message}}`, or anything.
 * @param {string | null} retryAfter The header, in seconds.
 * @returns {Failure}
 */
export function callFailure(status, body, retryAfter) {
  const { code, message } = errorBody(body);
  const seconds = Number(retryAfter) > 0 ? Number(retryAfter) : null;
  if (code === "session_limit_reached" || status === 429) return new Failure("full", { retryAfter: seconds });
  if (status === 401) return new Failure("token");
  if (status === 503 && (code === "" || code === "not_ready")) return new Failure("warming", { advice: sentence(message), retryAfter: seconds });
  if (status >= 500 && code === "") return new Failure("unreachable", { retryAfter: seconds });
  return new Failure("refused", { advice: sentence(message) || `It answered ${status}.` });
}

/**
 * Whether an `error` event says that the server ends the session by its own rules: calling again would defeat them.
 *
 * @param {{ code?: string | null, message: string }} error
 * @returns {Failure | null}
 */
export function sessionEnd({ code, message }) {
  return code === "session_idle" || code === "session_expired" ? new Failure("ended", { advice: sentence(message) }) : null;
}

/** A server's one-line message as a sentence for people. @param {string} message */
export function sentence(message) {
  const line = message.trim();
  return line && line[0]?.toUpperCase() + line.slice(1) + (/[.!?]$/.test(line) ? "" : ".");
}

/**
 * The code and message of an error answer; empty strings where it holds none.
 *
 * @param {string} body
 * @returns {{ code: string, message: string }}
 */
export function errorBody(body) {
  try {
    const { code, message } = JSON.parse(body).error;
    return { code: String(code ?? ""), message: String(message ?? "") };
  } catch {
    return { code: "", message: "" };
  }
}
