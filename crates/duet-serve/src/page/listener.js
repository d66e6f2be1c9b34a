// The listener's side: log in, lists by kind, what was done on this visit.

import { byId, element } from "./elements.js";
import { Outbox } from "./outbox.js";
import { Search } from "./search.js";
import { Shelf } from "./shelf.js";
import { Tabs } from "./tabs.js";

const DEEDS_KEPT = 20;

export class Listener {
  constructor() {
    this.outbox = new Outbox();
    this.shelves = {};
    this.search = new Search(byId("who"), byId("found"), byId("found-count"), (id) => this.logIn(id));
    this.kinds = new Tabs(byId("kinds"), () => this.loadCurrent());
    byId("log-in").addEventListener("submit", (event) => {
      event.preventDefault();
      const id = byId("who").value.trim();
      this.search.close();
      if (id !== "") this.logIn(id);
    });
    byId("log-out").addEventListener("click", () => this.logOut());
    byId("wishes").addEventListener("submit", (event) => {
      event.preventDefault();
      this.current?.load();
    });
    for (const id of ["count", "unseen"]) byId(id).addEventListener("change", () => this.current?.load());
  }

  get current() {
    return this.shelves[this.kinds.current];
  }

  logIn(id) {
    this.stop();
    const visit = { listener: id, followed: new Set(), did: (deed) => this.did(deed) };
    const wishes = () => ({ k: byId("count").value, filter: byId("filter").value.trim(), exclude_seen: byId("unseen").checked });
    this.shelves = {
      "kind-artist": new Shelf("artist", byId("artists"), this.outbox, visit, wishes),
      "kind-song": new Shelf("song", byId("songs"), this.outbox, visit, wishes),
    };
    byId("greeting").textContent = `For ${id}`;
    byId("deeds").replaceChildren();
    byId("visit").hidden = true;
    byId("log-in").hidden = true;
    byId("home").hidden = false;
    byId("greeting").focus();
    this.kinds.choose("kind-artist");
  }

  loadCurrent() {
    if (this.current && !this.current.loaded) this.current.load();
  }

  logOut() {
    this.stop();
    byId("home").hidden = true;
    byId("log-in").hidden = false;
    byId("who").value = "";
    byId("who").focus();
  }

  stop() {
    this.outbox.send().catch(() => {});
    for (const shelf of Object.values(this.shelves)) shelf.stop();
    this.shelves = {};
  }

  did(deed) {
    byId("visit").hidden = false;
    byId("deeds").prepend(element("li", {}, `You ${deed}`));
    while (byId("deeds").children.length > DEEDS_KEPT) byId("deeds").lastElementChild.remove();
  }
}
