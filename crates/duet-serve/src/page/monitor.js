// The last report of `duet monitor`: alarms first, then clicks by day and variant, verdicts, drift.

import { element, moment, number, sparkline, table } from "./elements.js";

function rate(found) {
  if (!Number.isFinite(found?.value)) return "–";
  const ends = Number.isFinite(found.low) && Number.isFinite(found.high) ? ` [${number(found.low, 2)}, ${number(found.high, 2)}]` : "";
  return `${number(found.value, 2)}${ends}`;
}

function alarms(report) {
  const raised = report.alarms ?? [];
  if (raised.length === 0) return element("p", { class: "source" }, "No alarm.");
  return element("ul", { class: "notice bad" }, raised.map((alarm) =>
    element("li", {}, element("b", {}, alarm.kind.replaceAll("_", " ")), `: ${alarm.message}${alarm.since ? ` (since ${alarm.since})` : ""}`)));
}

function clicks(report) {
  const slices = report.slices ?? [];
  const all = slices.find((slice) => slice.by === "all");
  const days = all?.days ?? [];
  const line = days.map((day) => day.clicks_per_100?.value ?? NaN);
  const variants = slices.filter((slice) => slice.by === "variant");
  return [
    all && element("p", {}, "Clicks of 100 impressions: ", element("b", {}, rate(all.overall.clicks_per_100))),
    line.length > 1 && sparkline(line, `Clicks of 100 impressions by day, the last ${number(line.at(-1), 2)}`),
    variants.length > 1 && table("By variant, with 95 % intervals", ["variant", "lists", "clicks / 100", "completion %"], variants.map((slice) =>
      [slice.value, slice.overall.lists, rate(slice.overall.clicks_per_100), rate(slice.overall.completion_percent)])),
  ];
}

function verdicts(report) {
  const said = (verdict) => {
    const { mean, low, high } = verdict.difference;
    return `${verdict.variant} against ${verdict.control}: ${verdict.outcome.replaceAll("_", " ")}, `
      + `${number(mean, 2)} [${number(low, 2)}, ${number(high, 2)}] clicks of 100`;
  };
  const all = report.verdicts ?? [];
  return all.length > 0 && element("ul", {}, all.map((verdict) => element("li", {}, said(verdict))));
}

function drift(report) {
  const shifts = [...(report.shifts ?? [])].sort((left, right) => (right.psi ?? -1) - (left.psi ?? -1));
  return shifts.length > 0 && table("Drift from training (PSI)", ["what", "PSI", "level"],
    shifts.map((shift) => [shift.what, shift.psi, `${shift.level}${shift.drifted ? ", above the limit" : ""}`]));
}

export function monitorCard(report) {
  const title = element("h3", {}, "Monitor");
  if (!report) {
    return element("section", { class: "card" }, title,
      element("p", { class: "note" }, "No report: duet monitor has not written one, or monitor.file does not name it."));
  }
  return element("section", { class: "card" }, title,
    element("p", { class: "note" }, `${report.first_day ?? "–"} to ${report.last_day ?? "–"}, made ${moment(report.made_at)}`),
    alarms(report), clicks(report), verdicts(report), drift(report));
}
