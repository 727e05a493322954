/**
 * The captions of both sides, drawn from the conversation's lines as they change.
 *
 * Screen readers get whole sentences once they are complete, from a polite live region: word by word they would
 * talk over the conversation.
 *
 * @import { Line } from "./conversation.js"
 */

import { splitHeard } from "./conversation.js";
import { make, say } from "./dom.js";

/** @type {Record<Line["role"], string>} */
const NAMES = { user: "You", assistant: "Agent", system: "System" };

/** Within this many pixels of the end, the captions follow new words. */
const FOLLOW = 120;

export class Captions {
  /**
   * @param {HTMLOListElement} list
   * @param {HTMLElement} scroller
   * @param {HTMLElement} announcer A live region out of sight.
   */
  constructor(list, scroller, announcer) {
    this.list = list;
    this.scroller = scroller;
    this.announcer = announcer;
    /** @type {Map<string, { row: HTMLLIElement, line: Line }>} */
    this.drawn = new Map();
  }

  /** @param {readonly Line[]} lines */
  draw(lines) {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const follow = scrollHeight - scrollTop - clientHeight < FOLLOW;
    const ids = new Set(lines.map((line) => line.id));
    for (const [id, { row }] of this.drawn) {
      if (ids.has(id)) continue;
      row.remove();
      this.drawn.delete(id);
    }
    lines.forEach((line, index) => {
      const known = this.drawn.get(line.id);
      if (known?.line === line) return;
      const row = known?.row ?? make("li", "");
      this.#fill(row, line);
      if (!known) this.list.insertBefore(row, this.list.children[index] ?? null);
      this.drawn.set(line.id, { row, line });
      if (line.status !== "open" && (known?.line.status ?? "open") === "open") this.#announce(line);
    });
    if (follow) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** @param {HTMLLIElement} row @param {Line} line */
  #fill(row, line) {
    row.className = `line ${line.role} ${line.status}`;
    // A turn of which nothing was understood is noise: it takes no room. One that failed says so.
    row.hidden = line.text === "" && line.status === "done";
    const [heard, unheard] = splitHeard(line);
    const words = make("p", "words");
    words.append(heard);
    if (unheard) words.append(" ", make("s", "unheard", unheard.trim()));
    if (line.text === "" && line.status === "open") words.append(dots());
    if (line.status === "cut") words.append(make("span", "mark", "interrupted"));
    if (line.status === "failed") words.append(make("span", "mark", line.role === "user" ? "not understood" : "failed"));
    row.replaceChildren(make("span", "who", NAMES[line.role]), words);
  }

  /** @param {Line} line */
  #announce(line) {
    const [heard] = splitHeard(line);
    if (heard.trim()) say(this.announcer, `${NAMES[line.role]}: ${heard.trim()}${line.status === "cut" ? " (interrupted)" : ""}`);
  }
}

/** Three dots that stand for words still to come. */
function dots() {
  const holder = make("span", "dots");
  holder.setAttribute("aria-hidden", "true");
  holder.append(make("i", ""), make("i", ""), make("i", ""));
  return holder;
}
