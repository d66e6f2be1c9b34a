// The page of duet: a listener's view and an operator's. No framework, no network but the service itself.

import { key, onUnauthorized } from "./api.js";
import { byId } from "./elements.js";
import { Listener } from "./listener.js";
import { Operator } from "./operator.js";
import { Tabs } from "./tabs.js";

const listener = new Listener();
const operator = new Operator(byId("operator"));

const views = new Tabs(byId("views"), (id) => {
  history.replaceState(null, "", id === "view-operator" ? "#operator" : "#");
  operator.refresh();
});

function showKey() {
  byId("key-held").hidden = key.get() === null;
}

onUnauthorized((refusal) => {
  byId("key-why").textContent = refusal.message;
  byId("key-form").hidden = false;
  showKey();
});

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  showKey();
  listener.current?.load();
  operator.refresh();
  byId(views.current).focus();
});

byId("key-forget").addEventListener("click", () => {
  key.set(null);
  showKey();
  byId(views.current).focus();
});

showKey();
if (location.hash === "#operator") views.choose("view-operator");
