// What went wrong, in words, with a way on: a countdown and a button where asking again may help.

import { Refused } from "./api.js";
import { element } from "./elements.js";

const TRIES = 5;
const WAIT_SECONDS = 3;

const HEADINGS = {
  401: "The service asks for an API key.",
  403: "This key may not do that.",
  404: "There is no such thing here.",
  429: "Too many requests.",
  503: "The service is busy.",
};

function heading(error) {
  if (!(error instanceof Refused)) return "The service is gone.";
  return HEADINGS[error.status] ?? (error.status >= 500 ? "The service failed." : "The service can not do that.");
}

export class Notice {
  constructor() {
    this.box = element("div", { class: "notice bad", role: "alert", hidden: true });
    this.tries = 0;
  }

  clear() {
    clearInterval(this.timer);
    this.tries = 0;
    this.said = null;
    this.box.hidden = true;
    this.box.replaceChildren();
  }

  // `again` is called when the countdown ends or the button is pressed. There is none after a few tries, or if `patient`: then the
  // caller asks again by itself, and what stands there already is not said again.
  show(error, again, patient = false) {
    clearInterval(this.timer);
    if (patient && this.said === error.message) return;
    this.said = error.message;
    const parts = [element("p", {}, element("strong", {}, heading(error)), ` ${error.message}`)];
    if (error.passes && again) {
      // Not read out every second: the region announces what is added to it, and this stays out of its text.
      const left = element("span", { "aria-hidden": "true" });
      const now = () => {
        clearInterval(this.timer);
        again();
      };
      const press = () => {
        this.tries = 0;
        now();
      };
      parts.push(element("p", { class: "row" }, element("button", { type: "button", class: "again", onclick: press }, "Try again"), left));
      this.tries += 1;
      if (this.tries <= TRIES && !patient) {
        let seconds = error.retryAfter ?? WAIT_SECONDS * this.tries;
        const tell = () => { left.textContent = ` by itself in ${seconds} s`; };
        tell();
        this.timer = setInterval(() => {
          seconds -= 1;
          if (seconds <= 0) now();
          else tell();
        }, 1000);
      }
    }
    this.box.replaceChildren(...parts);
    this.box.hidden = false;
  }
}
