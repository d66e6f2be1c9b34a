// The search box of the log-in: a combobox by the ARIA pattern, whose list is a help and never a must.

import { ask } from "./api.js";
import { element } from "./elements.js";
import { counted } from "./words.js";

const DELAY_MS = 150;
const MOST = 8;

export class Search {
  constructor(input, list, count, chosen) {
    Object.assign(this, { input, list, count, chosen });
    this.active = -1;
    this.turn = 0;
    input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.find(), DELAY_MS);
    });
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    list.addEventListener("pointerdown", (event) => {
      // Before the box loses the keyboard.
      event.preventDefault();
      const option = event.target.closest('[role="option"]');
      if (option) this.take(option.textContent);
    });
  }

  async find() {
    const turn = ++this.turn;
    const query = this.input.value.trim();
    if (query === "") return this.close();
    let found = [];
    try {
      found = (await ask("v1/listeners", { query: { query, limit: MOST } })).listeners;
    } catch {
      // Without a search any id can still be typed; what else is wrong shows at log-in.
    }
    if (turn !== this.turn || document.activeElement !== this.input) return undefined;
    this.active = -1;
    this.list.replaceChildren(...found.map((id, at) =>
      element("li", { role: "option", id: `found-${at}`, "aria-selected": "false" }, id)));
    this.count.textContent = counted(found.length, "listener found", "listeners found");
    return found.length > 0 ? this.open() : this.close();
  }

  open() {
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
  }

  close() {
    clearTimeout(this.timer);
    this.turn += 1;
    this.list.hidden = true;
    this.active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const options = [...this.list.children];
    const open = !this.list.hidden;
    if (event.key === "Escape" && open) {
      event.preventDefault();
      this.close();
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !open) {
      this.find();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.active = this.active < 0 && step < 0 ? options.length - 1 : (this.active + step + options.length) % options.length;
      options.forEach((option, at) => option.setAttribute("aria-selected", String(at === this.active)));
      options[this.active].scrollIntoView({ block: "nearest" });
      this.input.setAttribute("aria-activedescendant", options[this.active].id);
    } else if (event.key === "Enter" && open && this.active >= 0) {
      event.preventDefault();
      this.take(options[this.active].textContent);
    }
  }

  take(id) {
    this.input.value = id;
    this.close();
    this.chosen(id);
  }
}
