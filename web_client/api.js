/** Requests to the server that brought this page. */

import { Failure, callFailure } from "./failures.js";

export class Api {
  /** @param {() => string} token The bearer token to show; empty for none. */
  constructor(token) {
    this.token = token;
  }

  /** @param {string} path Relative to the page, so that the server may live under any prefix. */
  get(path) {
    return this.#request(path, { headers: this.#headers() });
  }

  /**
   * @param {string} path
   * @param {string} type
   * @param {BodyInit} body
   * @param {AbortSignal} [signal]
   */
  post(path, type, body, signal) {
    return this.#request(path, { method: "POST", headers: { ...this.#headers(), "Content-Type": type }, body, signal: signal ?? null });
  }

  /** @param {string} path */
  delete(path) {
    return this.#request(path, { method: "DELETE", headers: this.#headers() });
  }

  /** @returns {Record<string, string>} */
  #headers() {
    return this.token() ? { Authorization: `Bearer ${this.token()}` } : {};
  }

  /**
   * @param {string} path
   * @param {RequestInit} request
   * @returns {Promise<Response>} Of a request that succeeded.
   * @throws {Failure}
   */
  async #request(path, request) {
    const answer = await fetch(new URL(path, document.baseURI), request).catch(() => {
      throw new Failure("unreachable");
    });
    if (!answer.ok) throw callFailure(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    return answer;
  }
}
