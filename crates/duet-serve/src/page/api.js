// The service's HTTP interface, and what can go wrong with it.

const KEY = "duet.key";
const PATIENCE_MS = 15_000;

// The service answered, but not with what was asked for: `message` is its own sentence.
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  // Worth asking again after a while, as it is.
  get passes() {
    return this.status === 429 || this.status === 503;
  }
}

// No answer at all.
export class Unreachable extends Error {
  get passes() {
    return true;
  }
}

// Session storage may be forbidden: then the key lives as long as the page.
let held = null;

export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? held;
    } catch {
      return held;
    }
  },
  set(value) {
    held = value;
    try {
      if (value === null) sessionStorage.removeItem(KEY);
      else sessionStorage.setItem(KEY, value);
    } catch {
      // It is held above.
    }
  },
};

// Whom to tell that a key is needed.
let unauthorized = () => {};

export function onUnauthorized(tell) {
  unauthorized = tell;
}

// Asks for JSON. `query`: a value or a list of values a name; empty ones are left out.
export async function ask(path, { query = {}, body, keepalive = false } = {}) {
  const words = new URLSearchParams();
  for (const [name, values] of Object.entries(query)) {
    for (const value of [values].flat()) if (value !== "" && value !== undefined) words.append(name, value);
  }
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key.get() !== null) headers.authorization = `Bearer ${key.get()}`;
  const question = {
    method: body === undefined ? "GET" : "POST", headers, keepalive, cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(PATIENCE_MS),
  };
  let answer;
  let text;
  try {
    answer = await fetch(words.size > 0 ? `${path}?${words}` : path, question);
    text = await answer.text();
  } catch (error) {
    throw new Unreachable(error.name === "TimeoutError" ? "The service did not answer in time." : "The service can not be reached.");
  }
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    if (answer.ok) throw new Refused(answer.status, "The service answered with something that is no JSON.", null);
  }
  if (answer.ok) return content;
  const seconds = Number.parseInt(answer.headers.get("retry-after") ?? "", 10);
  const refusal = new Refused(
    answer.status, content?.error ?? `The service answered ${answer.status}.`, Number.isFinite(seconds) ? seconds : null,
  );
  refusal.content = content;
  if (answer.status === 401) unauthorized(refusal);
  throw refusal;
}

// A random UUID. `crypto.randomUUID` is there for pages from https and from this machine only.
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
