// The operator's side: the service's own account of itself, every two seconds while someone can see it.

import { ask } from "./api.js";
import { bar, duration, element, moment, number, percent, sparkline, table } from "./elements.js";
import { monitorCard } from "./monitor.js";
import { Notice } from "./notice.js";
import { source } from "./words.js";

const PERIOD_MS = 2000;
// Two minutes of them.
const KEPT = 60;

// What is shown big: its title, the figure in an answer, how it is written, and what it means.
const FIGURES = [
  ["Requests", (status) => status.requests_per_second, (value) => `${number(value, 1)} /s`, "over the last minute"],
  ["Latency, median", (status) => status.latency_ms?.p50, (value) => `${number(value, 2)} ms`, "over the last minute"],
  ["Latency, 99 of 100", (status) => status.latency_ms?.p99, (value) => `${number(value, 2)} ms`, "over the last minute"],
  ["Clicks per 100 shown", (status) => status.clicks_per_100_impressions, (value) => number(value, 2), "since this process started"],
  ["Coverage", (status) => status.coverage, percent, "of the catalogue, in the last 10,000 lists"],
  ["Waiting requests", (status) => status.queue_depth, (value) => number(value, 0), "now"],
  ["Turned away", (status) => status.shed_total, (value) => number(value, 0), "503, since the start"],
  ["Degraded lists", (status) => status.degraded_total, (value) => number(value, 0), "since the start"],
];

export class Operator {
  constructor(panel) {
    this.panel = panel;
    this.notice = new Notice();
    this.tiles = FIGURES.map(([title, , , note]) => {
      const [figure, line] = [element("dd", { class: "figure" }, "–"), element("dd", { class: "line" })];
      const tile = element("div", { class: "tile" }, element("dt", {}, title), figure, line, element("dd", { class: "note" }, note));
      return { tile, figure, line, past: [] };
    });
    this.when = element("span", { class: "note" });
    this.pause = element("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Pause");
    this.facts = element("dl", { class: "facts" });
    this.more = element("div", { class: "more" });
    panel.replaceChildren(
      element("div", { class: "row spread" }, element("h2", {}, "Model health"), element("span", { class: "row" }, this.when, this.pause)),
      this.notice.box, element("dl", { class: "tiles" }, this.tiles.map(({ tile }) => tile)), this.facts, this.more,
    );
    this.asking = false;
    this.paused = false;
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  get seen() {
    return !this.panel.hidden && document.visibilityState === "visible" && !this.paused;
  }

  toggle() {
    this.paused = !this.paused;
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.refresh();
  }

  // Asks now, and again after a while as long as someone looks. One question at a time.
  async refresh() {
    clearTimeout(this.timer);
    if (this.asking || !this.seen) return;
    this.asking = true;
    let pause = PERIOD_MS;
    try {
      const status = await ask("v1/status");
      this.notice.clear();
      this.show(status);
    } catch (error) {
      this.notice.show(error, () => this.refresh(), true);
      pause = error.passes ? Math.max(PERIOD_MS, 1000 * (error.retryAfter ?? 0)) : null;
    } finally {
      this.asking = false;
    }
    if (pause !== null) this.timer = setTimeout(() => this.refresh(), pause);
  }

  show(status) {
    this.when.textContent = `as of ${new Date().toLocaleTimeString()}`;
    this.tiles.forEach((tile, at) => {
      const [title, read, write] = FIGURES[at];
      const value = read(status);
      tile.past.push(Number.isFinite(value) ? value : NaN);
      tile.past.splice(0, tile.past.length - KEPT);
      const known = tile.past.filter(Number.isFinite);
      const range = known.length > 1 ? `between ${write(Math.min(...known))} and ${write(Math.max(...known))} since you look` : "no line yet";
      tile.figure.textContent = Number.isFinite(value) ? write(value) : "–";
      tile.line.replaceChildren(sparkline(tile.past, `${title}: ${range}`));
    });
    const facts = [
      ["Bundle served", status.bundle], ["Opened", moment(status.bundle_opened_at)],
      ["Artists", number(status.items)], ["Listeners", number(status.users)],
      ["Process up for", duration(status.uptime_seconds)], ["Requests in all", number(status.requests_total)],
    ];
    this.facts.replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value ?? "–"))));
    this.replaceMore([this.sources(status), this.variants(status), this.swaps(status), monitorCard(status.monitor), this.champions(status)]);
  }

  // Only what changed is drawn anew: a box being scrolled or read stays.
  replaceMore(parts) {
    const wanted = parts.flat().filter(Boolean);
    wanted.forEach((part, at) => {
      const have = this.more.children[at];
      if (!have) this.more.append(part);
      else if (!have.isEqualNode(part)) have.replaceWith(part);
    });
    while (this.more.children.length > wanted.length) this.more.lastElementChild.remove();
  }

  sources(status) {
    const counts = Object.entries(status.sources ?? {}).filter(([, count]) => count > 0);
    const all = counts.reduce((sum, [, count]) => sum + count, 0);
    const rows = counts.sort(([, left], [, right]) => right - left).map(([name, count]) => element("li", {},
      element("span", {}, element("b", {}, name.replaceAll("_", " ")), ` ${number(count)} (${percent(count / Math.max(1, all))})`),
      bar(count / Math.max(1, all)), element("span", { class: "note" }, source(name))));
    return element("section", { class: "card" }, element("h3", {}, "Where lists came from"),
      rows.length > 0 ? element("ul", { class: "shares" }, rows) : element("p", { class: "note" }, "No list was asked for yet."));
  }

  variants(status) {
    const variants = status.variants ?? [];
    return element("section", { class: "card" }, element("h3", {}, "Variants"),
      table("Variants and their share of the listeners", ["variant", "share", "recommender"],
        variants.map((variant) => [variant.name, percent(variant.share), `${variant.recommender}${variant.rerank ? ", re-ranked" : ""}`])));
  }

  swaps(status) {
    const swaps = [...(status.swaps ?? [])].reverse();
    return element("section", { class: "card" }, element("h3", {}, "Swaps of the bundle"),
      swaps.length > 0
        ? table("Swaps, the newest first", ["when", "bundle", "outcome"], swaps.map((swap) => [moment(swap.at), swap.bundle, swap.outcome]))
        : element("p", { class: "note" }, "None yet."));
  }

  champions(status) {
    const lines = [...(status.champion_history ?? [])].reverse();
    return element("section", { class: "card" }, element("h3", {}, "Champions"),
      lines.length > 0
        ? table("Promotions and rollbacks, the newest first", ["when", "what", "champion", "before"],
          lines.map((line) => [moment(line.at), line.action, line.bundle, line.before]))
        : element("p", { class: "note" }, "The bundle is served from a path without a history of champions."));
  }
}
