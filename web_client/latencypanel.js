/**
 * The latency panel: a bar per turn, running p50 and p95, and the state of the network.
 *
 * @import { Health } from "./connection.js"
 * @import { LatencyLog, Turn } from "./latency.js"
 */

import { element, make, say } from "./dom.js";
import { MARKS, measured, parts, percentile } from "./latency.js";

/** Older turns stay in the percentiles and in the copy. */
const SHOWN = 6;

/** @param {number | null} value Milliseconds. @returns {string} */
const ms = (value) => (value === null ? "–" : String(Math.round(value)));

export class LatencyPanel {
  /** @param {LatencyLog} log */
  constructor(log) {
    this.log = log;
    this.rows = element("latency-rows", HTMLTableSectionElement);
    this.p50 = element("latency-p50", HTMLElement);
    this.p95 = element("latency-p95", HTMLElement);
    this.footer = element("latency-summary", HTMLTableSectionElement);
    this.network = element("latency-network", HTMLElement);
    this.drawn = "";
    const copy = element("latency-copy", HTMLButtonElement);
    copy.addEventListener("click", async () => {
      const done = await navigator.clipboard?.writeText(JSON.stringify(log.turns, null, 2)).then(
        () => true,
        () => false,
      );
      say(copy, done ? "Copied" : "Could not copy");
      setTimeout(() => say(copy, "Copy as JSON"), 2000);
    });
  }

  /** Draw what changed since the last call. */
  draw() {
    const { turns } = this.log;
    const state = JSON.stringify(turns);
    if (state === this.drawn) return;
    this.drawn = state;
    const played = measured(turns, "played");
    say(this.p50, ms(percentile(played, 50)));
    say(this.p95, ms(percentile(played, 95)));
    const shown = turns.slice(-SHOWN).reverse();
    const longest = Math.max(...shown.flatMap((turn) => Object.values(turn.marks).map((value) => value ?? 0)), 1);
    this.rows.replaceChildren(...shown.flatMap((turn) => [this.#row(turn, longest), ...this.#parts(turn)]));
    this.footer.replaceChildren(
      ...[50, 95].map((percent) => {
        const row = make("tr", "");
        const head = make("th", "", `p${percent}`);
        head.scope = "row";
        row.append(head, ...MARKS.map((mark) => make("td", "", ms(percentile(measured(turns, mark), percent)))));
        return row;
      }),
    );
  }

  /** @param {Health | null} health */
  drawNetwork(health) {
    const parts = health
      ? [
          health.roundTrip === null ? "" : `round trip ${ms(health.roundTrip)} ms`,
          `jitter ${ms(health.jitter)} ms`,
          `${health.lost} packets lost`,
          `${ms(health.concealed)} ms concealed`,
        ]
      : ["not connected"];
    say(this.network, parts.filter(Boolean).join(" · "));
  }

  /** What the GPU did until the first sound, where a server tells it. @param {Turn} turn */
  #parts(turn) {
    const told = parts(turn);
    if (told.length === 0) return [];
    const row = make("tr", "parts");
    const cell = make("td", "");
    cell.colSpan = MARKS.length + 1;
    const list = make("ul", "");
    list.setAttribute("aria-label", `What the engine did in turn ${turn.number}, in milliseconds`);
    list.append(...told.map(({ name, ms: took }) => make("li", "", `${name} ${ms(took)}`)));
    cell.append(list);
    row.append(cell);
    return [row];
  }

  /** @param {Turn} turn @param {number} longest */
  #row(turn, longest) {
    const row = make("tr", "");
    const head = make("th", "", String(turn.number));
    head.scope = "row";
    head.title = Object.entries(turn.server)
      .map(([name, value]) => `${name} ${ms(value)}`)
      .join("\n");
    const bar = make("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    let from = 0;
    for (const mark of MARKS) {
      const until = turn.marks[mark] ?? 0;
      // What was prepared before the turn was over took no time of its own.
      if (until <= from) continue;
      const piece = make("i", mark);
      piece.style.width = `${(100 * (until - from)) / longest}%`;
      bar.append(piece);
      from = until;
    }
    const cells = MARKS.map((mark) => make("td", "", ms(turn.marks[mark])));
    cells.at(-1)?.append(bar);
    row.append(head, ...cells);
    return row;
  }
}
