// Events on their way to the service. What could not be sent stays, with its event id: sent twice, it counts once.

import { Refused, ask, uuid } from "./api.js";

// Well within the size of a body that the service takes.
const MOST_A_REQUEST = 200;
// Browsers carry on with 64 KiB when a page is left.
const MOST_KEPT_ALIVE = 100;
const MOST_WAITING = 5000;

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

  add(type, listener, kind, item, list, position, rest = {}) {
    if (this.off !== null) return;
    this.waiting.push({
      event_id: uuid(), type, user_id: listener, item_kind: kind, item_id: item, ts: new Date().toISOString(),
      request_id: list, position, surface: "page", session_id: this.session, ...rest,
    });
    this.waiting.splice(0, Math.max(0, this.waiting.length - MOST_WAITING));
  }

  // Sends all that waits, one request after the other. Fails as the request does; what the service rejects for good is said.
  send(keepalive = false) {
    const run = this.last.then(() => this.sendAll(keepalive));
    this.last = run.catch(() => {});
    return run;
  }

  async sendAll(keepalive) {
    const rejected = [];
    while (this.waiting.length > 0) {
      const events = this.waiting.slice(0, keepalive ? MOST_KEPT_ALIVE : MOST_A_REQUEST);
      const sent = new Set(events);
      let answer;
      try {
        answer = await ask("v1/events", { body: { events }, keepalive });
      } catch (error) {
        if (!(error instanceof Refused) || error.passes || error.status === 401) throw error;
        // Asking again would be refused again.
        this.waiting = this.waiting.filter((event) => !sent.has(event));
        if (error.status !== 404) throw new Refused(error.status, error.content?.rejected?.[0]?.error ?? error.message, null);
        this.off = error.message;
        this.waiting = [];
        return;
      }
      this.waiting = this.waiting.filter((event) => !sent.has(event));
      rejected.push(...(answer.rejected ?? []));
    }
    if (rejected.length > 0) throw new Refused(400, rejected[0].error, null);
  }
}
