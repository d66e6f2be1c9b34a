// The list of one kind for one listener: fetches and shows it, marks what changed, turns what is pressed into events.

import { Refused, ask } from "./api.js";
import { bar, element, number } from "./elements.js";
import { Notice } from "./notice.js";
import { DEEDS, counted, degraded, source } from "./words.js";

const IMPRESSION_DELAY_MS = 600;
// What a press on "Play" and "Skip" stands for: a song to its end, and one given up. Played from a list, an item was picked from it too.
const PLAYED_MS = 210_000;
const SKIPPED_MS = 4_000;

// Each press: its name, the button's, the events it makes.
const PRESSES = [
  ["click", "Open", [["click"]]],
  ["listen", "Play", [["click"], ["listen", { ms_played: PLAYED_MS }]]],
  ["skip", "Skip", [["skip", { ms_played: SKIPPED_MS }]]],
];

// Scores are read against each other: as many places for all of them.
function score(value) {
  return Number.isFinite(value) ? value.toFixed(3) : "–";
}

export class Shelf {
  // `visit`: the listener, what is followed, what was done; `wishes()`: k, filter, exclude_seen.
  constructor(kind, panel, outbox, visit, wishes) {
    Object.assign(this, { kind, panel, outbox, visit, wishes });
    this.notice = new Notice();
    // Apart, so that events that arrive do not wipe away what is wrong with the list.
    this.lost = new Notice();
    // What was pressed last and never counts; it stays until the next press.
    this.dropped = new Notice();
    this.about = element("div", { class: "about" });
    this.items = element("ol", { class: "items", role: "list" });
    this.told = element("p", { class: "unseen", role: "status" });
    this.changes = element("p", { class: "changes", role: "status" });
    this.off = element("p", { class: "notice", hidden: true });
    panel.replaceChildren(this.notice.box, this.lost.box, this.dropped.box, this.about, this.off, this.told, this.changes, this.items);
    this.list = null;
    this.pressed = [];
    this.turn = 0;
    this.stopped = false;
    this.seen = new IntersectionObserver((entries) => this.shown(entries), { threshold: 0.5 });
  }

  get loaded() {
    return this.list !== null;
  }

  // Of answers that overtake each other only the last question's counts.
  async load(deed) {
    const turn = ++this.turn;
    this.panel.setAttribute("aria-busy", "true");
    const began = performance.now();
    try {
      const query = { ...this.wishes(), kind: this.kind, explain: true };
      const list = await ask(`v1/users/${encodeURIComponent(this.visit.listener)}/recommendations`, { query });
      if (turn !== this.turn) return;
      this.notice.clear();
      this.show(list, performance.now() - began, deed);
    } catch (error) {
      if (turn !== this.turn) return;
      this.fail(error, () => this.load(deed));
    } finally {
      if (turn === this.turn) this.panel.removeAttribute("aria-busy");
    }
  }

  fail(error, again) {
    const unavailable = error instanceof Refused && error.status === 400 && this.kind === "song" && !this.loaded;
    if (!unavailable) {
      this.notice.show(error, again);
      return;
    }
    this.notice.clear();
    this.about.replaceChildren(element("div", { class: "notice" },
      element("p", {}, element("strong", {}, "Songs are not available yet."), " The service says:"),
      element("blockquote", {}, error.message)));
  }

  show(list, took, deed) {
    const before = this.list;
    const focus = this.focus();
    this.list = list;
    this.seen.disconnect();
    const places = new Map((before?.items ?? []).map((item) => [item.item_id, item.position]));
    const scores = list.items.map((item) => item.score).filter(Number.isFinite);
    const [low, high] = [Math.min(0, ...scores), Math.max(...scores, Number.MIN_VALUE)];
    const counts = { fresh: 0, up: 0, down: 0 };
    const rows = list.items.map((item) => {
      const change = before ? this.change(places.get(item.item_id), item.position, counts) : null;
      return this.row(item, (item.score - low) / (high - low), change);
    });
    this.items.replaceChildren(...rows);
    this.describe(list, took);
    if (before) this.tell(before, list, counts, deed);
    else this.told.textContent = `${counted(list.items.length, this.kind, `${this.kind}s`)}. ${source(list.source)}`;
    if (list.items.length === 0) this.changes.textContent = "Nothing fits what was asked for.";
    this.refocus(focus);
    this.impressions = new Set();
    for (const row of rows) this.seen.observe(row);
  }

  change(from, to, counts) {
    if (from === undefined) {
      counts.fresh += 1;
      return ["new", "new", "new"];
    }
    if (from === to) return null;
    const steps = Math.abs(from - to);
    counts[from > to ? "up" : "down"] += 1;
    return from > to ? ["up", `▲ ${steps}`, `moved up ${steps}`] : ["down", `▼ ${steps}`, `moved down ${steps}`];
  }

  describe(list, took) {
    const fact = (name, value) => element("span", {}, `${name} `, element("code", {}, value));
    this.about.replaceChildren(...[
      element("p", { class: "source" }, source(list.source)),
      list.degraded.length > 0 && element("ul", { class: "notice" }, list.degraded.map((word) => element("li", {}, degraded(word)))),
      element("p", { class: "note facts" }, fact("variant", list.variant), fact("bundle", list.bundle), fact("request", list.request_id),
        element("span", {}, `answered in ${number(took, 0)} ms`)),
    ].filter(Boolean));
  }

  tell(before, list, counts, deed) {
    const now = new Set(list.items.map((item) => item.item_id));
    const gone = before.items.filter((item) => !now.has(item.item_id)).map((item) => item.name);
    const parts = [
      counts.fresh > 0 && `${counts.fresh} new`,
      counts.up > 0 && `${counts.up} moved up`,
      counts.down > 0 && `${counts.down} moved down`,
      gone.length > 0 && `${gone.length} left (${gone.slice(0, 3).join(", ")}${gone.length > 3 ? ", …" : ""})`,
    ].filter(Boolean);
    const outcome = parts.length > 0 ? `The list changed: ${parts.join(", ")}.` : "The list stayed as it was.";
    this.changes.textContent = deed ? `You ${deed}. ${outcome}` : outcome;
  }

  row(item, share, change) {
    const title = `${this.kind}-${item.position}-name`;
    const button = (deed, label, press, more = {}) => element("button", {
      type: "button", "data-deed": deed, "aria-label": `${label} ${item.name}`, disabled: this.outbox.off !== null, onclick: press, ...more,
    }, label);
    const followed = this.visit.followed.has(item.item_id);
    return element("li", { "data-item": item.item_id, "data-position": item.position, class: change?.[0], "aria-labelledby": title },
      element("span", { class: "place", "aria-hidden": "true" }, item.position + 1),
      element("div", { class: "what" },
        element("p", { class: "name", id: title }, item.name, " ",
          change && element("span", { class: `mark ${change[0]}` },
            element("span", { "aria-hidden": "true" }, change[1]), element("span", { class: "unseen" }, `, ${change[2]}`))),
        element("p", { class: "score" }, bar(share), element("span", {}, element("span", { class: "unseen" }, "score "), score(item.score))),
        this.reasons(item)),
      element("div", { class: "deeds", role: "group", "aria-label": item.name },
        PRESSES.map(([type, label, events]) => button(type, label, () => this.act(type, item, events))),
        button("follow", "Follow", () => this.act(followed ? "unfollow" : "follow", item), { "aria-pressed": String(followed) })));
  }

  reasons(item) {
    const reasons = item.reasons ?? [];
    if (reasons.length === 0) return null;
    const parts = reasons.flatMap((reason, at) => [
      at > 0 && ", ", element("b", {}, reason.name), Number.isFinite(reason.share) && ` (${number(100 * reason.share, 0)}\u00a0%)`,
    ]);
    return element("p", { class: "reasons" }, "because you listened to ", parts);
  }

  // Half of a row in view counts as shown, once a list.
  shown(entries) {
    for (const { isIntersecting, target } of entries) {
      const item = target.dataset.item;
      if (!isIntersecting || !target.isConnected || this.impressions.has(item)) continue;
      this.impressions.add(item);
      this.outbox.add("impression", this.visit.listener, this.kind, item, this.list.request_id, Number(target.dataset.position));
    }
    clearTimeout(this.sending);
    this.sending = setTimeout(() => this.deliver(), IMPRESSION_DELAY_MS);
  }

  // The first refusal of an event, or null.
  async send() {
    clearTimeout(this.sending);
    const refusal = await this.outbox.send();
    if (this.outbox.off === null) return refusal;
    this.off.textContent = `Nothing you press here is kept, the list will not change. The service says: ${this.outbox.off.message}`;
    this.off.hidden = false;
    for (const button of this.items.querySelectorAll("button")) button.disabled = true;
    return null;
  }

  // Sends what waits. What was pressed counts once it has arrived, whichever try it came with; then the list is asked for again. What is
  // refused for good never counts.
  async deliver() {
    let refusal;
    try {
      refusal = await this.send();
    } catch (error) {
      if (!this.stopped) this.lost.show(error, () => this.deliver());
      return;
    }
    // Who pressed has logged out: the events arrived, and what is shown now is somebody else's.
    if (this.stopped) return;
    const settled = this.pressed.filter(({ entries }) => entries.every((entry) => !entry.waits));
    this.pressed = this.pressed.filter((press) => !settled.includes(press));
    if (this.outbox.off !== null) {
      this.lost.clear();
      return;
    }
    const arrived = settled.filter(({ entries }) => entries.every((entry) => entry.refused === null));
    const refused = settled.find((press) => !arrived.includes(press));
    if (refused) {
      const { status, message } = refused.entries.find((entry) => entry.refused !== null).refused;
      this.dropped.show(new Refused(status, `That you ${refused.words} does not count: ${message}`, null));
    }
    if (refusal && !refused) this.lost.show(refusal);
    else this.lost.clear();
    if (arrived.length === 0) return;
    for (const { done } of arrived) done();
    await this.load(arrived.at(-1).words);
  }

  async act(type, item, events = [[type]]) {
    if (this.panel.hasAttribute("aria-busy")) return;
    const entries = events.map(([event, rest]) =>
      this.outbox.add(event, this.visit.listener, this.kind, item.item_id, this.list.request_id, item.position, rest));
    this.dropped.clear();
    const words = `${DEEDS[type]} ${item.name}`;
    const done = () => {
      if (type === "follow") this.visit.followed.add(item.item_id);
      else if (type === "unfollow") this.visit.followed.delete(item.item_id);
      this.visit.did(words);
    };
    this.panel.setAttribute("aria-busy", "true");
    this.pressed.push({ words, done, entries });
    await this.deliver();
    if (!this.stopped) this.panel.removeAttribute("aria-busy");
  }

  // Which button of which item has the keyboard, so that a new list leaves it there.
  focus() {
    const active = document.activeElement;
    const row = active?.closest?.("li[data-item]");
    if (!row || !this.items.contains(row)) return null;
    return { item: row.dataset.item, position: Number(row.dataset.position), deed: active.dataset.deed };
  }

  refocus(focus) {
    if (!focus) return;
    const rows = [...this.items.children];
    const row = rows.find((one) => one.dataset.item === focus.item) ?? rows[Math.min(focus.position, rows.length - 1)];
    row?.querySelector(`[data-deed="${CSS.escape(focus.deed)}"]`)?.focus({ preventScroll: true });
  }

  stop() {
    this.turn += 1;
    this.stopped = true;
    clearTimeout(this.sending);
    this.seen.disconnect();
    this.notice.clear();
    this.lost.clear();
    this.dropped.clear();
    this.panel.removeAttribute("aria-busy");
    this.panel.replaceChildren();
  }
}
