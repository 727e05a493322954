/**
 * The one message above the talk button that says what failed and what to do.
 *
 * @import { Failure } from "./failures.js"
 */

import { element, say } from "./dom.js";

/** A message that asks for nothing goes away by itself. */
const BRIEFLY_MS = 8000;

export class Notice {
  constructor() {
    this.box = element("notice", HTMLElement);
    this.title = element("notice-title", HTMLElement);
    this.advice = element("notice-advice", HTMLElement);
    this.timer = 0;
    element("notice-close", HTMLButtonElement).addEventListener("click", () => this.hide());
  }

  /** @param {Failure} failure @param {"briefly"} [lasting] Otherwise until it is dismissed or mended. */
  show(failure, lasting) {
    clearTimeout(this.timer);
    say(this.title, failure.title);
    say(this.advice, failure.advice);
    this.box.dataset["kind"] = failure.kind;
    this.box.hidden = false;
    if (lasting) this.timer = setTimeout(() => this.hide(), BRIEFLY_MS);
  }

  hide() {
    clearTimeout(this.timer);
    this.box.hidden = true;
  }
}
