// Elements of the page. Text only ever becomes text nodes, and styles are set on the element: the page's policy forbids inline ones.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

// A line without axes; `label` says in words what it shows. Where a figure is unknown, the line has a gap.
export function sparkline(values, label) {
  const [width, height, edge] = [160, 36, 3];
  const known = values.filter(Number.isFinite);
  const drawing = shape("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (known.length < 2) return drawing;
  const top = Math.max(...known, Number.MIN_VALUE);
  const x = (at) => edge + (at / (values.length - 1)) * (width - 2 * edge);
  const y = (value) => height - edge - (value / top) * (height - 2 * edge);
  let path = "";
  let drawn = false;
  values.forEach((value, at) => {
    if (Number.isFinite(value)) path += `${drawn ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    drawn = Number.isFinite(value);
  });
  drawing.append(shape("path", { d: path }));
  return drawing;
}

// A bar of a share between 0 and 1, for the eye: the figure stands beside it.
export function bar(share) {
  const inner = element("span");
  inner.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, inner);
}

// A table with a caption; cells that are numbers stand to the right. Wide ones scroll in their own box, by keyboard too.
export function table(caption, head, rows) {
  const cell = (tag, value, attributes = {}) =>
    element(tag, { ...attributes, class: typeof value === "number" ? "number" : undefined },
      typeof value === "number" ? number(value) : value ?? "–");
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head.map((name, at) =>
        element("th", { scope: "col", class: typeof rows[0]?.[at] === "number" ? "number" : undefined }, name)))),
      element("tbody", {}, rows.map(([first, ...rest]) =>
        element("tr", {}, cell("th", first, { scope: "row" }), rest.map((value) => cell("td", value)))))));
}

export function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const most = Math.abs(value) >= 100 ? 0 : digits;
  return value.toLocaleString("en", { maximumFractionDigits: Number.isInteger(value) ? 0 : most });
}

export function percent(share) {
  return Number.isFinite(share) ? `${number(100 * share, 1)} %` : "–";
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

// A moment as the server gives it (RFC 3339, or milliseconds since 1970), in the reader's time.
export function moment(at) {
  const time = new Date(at);
  return at === null || at === undefined || Number.isNaN(time.getTime()) ? String(at ?? "–")
    : time.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
}
