// Tabs by the ARIA pattern: one tab stop, arrow keys, Home and End move and choose.

import { byId } from "./elements.js";

export class Tabs {
  constructor(list, chosen) {
    this.tabs = [...list.querySelectorAll('[role="tab"]')];
    this.chosen = chosen;
    list.addEventListener("click", (event) => {
      const tab = event.target.closest('[role="tab"]');
      if (tab) this.choose(tab.id);
    });
    list.addEventListener("keydown", (event) => this.key(event));
  }

  get current() {
    return this.tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id;
  }

  key(event) {
    const at = this.tabs.indexOf(document.activeElement);
    const last = this.tabs.length - 1;
    const to = {
      ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last,
    }[event.key];
    if (at < 0 || to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.choose(this.tabs[to].id);
    this.tabs[to].focus();
  }

  choose(id) {
    for (const tab of this.tabs) {
      const selected = tab.id === id;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !selected;
    }
    this.chosen(id);
  }
}
