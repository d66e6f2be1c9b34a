// Events on their way to the service. What could not be sent stays, with its event id: sent twice, it counts once. What the service
// refuses for good goes, and whoever added it finds out.

import { Refused, ask, uuid } from "./api.js";

// Well within the size of a body that the service takes.
const MOST_A_REQUEST = 200;
// Browsers carry on with 64 KiB when a page is left.
const MOST_KEPT_ALIVE = 100;
const MOST_WAITING = 5000;

// Whether asking again, as it is, would be refused again. A key (401) may still be given, and what the service failed at it may do yet.
function isFinal(error) {
  return error instanceof Refused && error.status >= 400 && error.status < 500 && error.status !== 401 && error.status !== 429;
}

export class Outbox {
  constructor() {
    this.waiting = [];
    // The service's sentence where it takes no events.
    this.off = null;
    this.session = uuid();
    this.last = Promise.resolve();
    // Short lists of impressions must not be lost with the page.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") this.send(true).catch(() => {});
    });
  }

  // Returns what becomes of the event: `waits` until the service has taken it, or `refused` it.
  add(type, listener, kind, item, list, position, rest = {}) {
    const entry = {
      waits: true,
      refused: null,
      event: {
        event_id: uuid(), type, user_id: listener, item_kind: kind, item_id: item, ts: new Date().toISOString(),
        request_id: list, position, surface: "page", session_id: this.session, ...rest,
      },
    };
    this.waiting.push(entry);
    if (this.off !== null) this.settle(this.waiting, () => this.off);
    const most = this.waiting.slice(0, Math.max(0, this.waiting.length - MOST_WAITING));
    this.settle(most, () => new Refused(429, "Too many events wait to be sent.", null));
    return entry;
  }

  // Sends all that waits, one request after the other; the first refusal of an event, or null. Fails as a request does that may yet go through.
  send(keepalive = false) {
    const run = this.last.then(() => this.sendAll(keepalive));
    this.last = run.catch(() => {});
    return run;
  }

  async sendAll(keepalive) {
    let refusal = null;
    while (this.waiting.length > 0) {
      const entries = this.waiting.slice(0, keepalive ? MOST_KEPT_ALIVE : MOST_A_REQUEST);
      let all = null;
      let rejected;
      try {
        ({ rejected } = await ask("v1/events", { body: { events: entries.map((entry) => entry.event) }, keepalive }));
      } catch (error) {
        if (!isFinal(error)) throw error;
        all = error;
        rejected = error.content?.rejected;
      }
      if (all?.status === 404) {
        this.off = all;
        this.settle(this.waiting, () => all);
        return null;
      }
      const reasons = new Map((rejected ?? []).map(({ index, error }) => [index, new Refused(all?.status ?? 400, error, null)]));
      this.settle(entries, (at) => reasons.get(at) ?? all);
      refusal ??= entries.find((entry) => entry.refused !== null)?.refused ?? null;
    }
    return refusal;
  }

  // Entries that wait no longer; `why(at)` is the refusal of each, or null.
  settle(entries, why) {
    const settled = new Set(entries);
    this.waiting = this.waiting.filter((entry) => !settled.has(entry));
    entries.forEach((entry, at) => Object.assign(entry, { waits: false, refused: why(at) }));
  }
}
