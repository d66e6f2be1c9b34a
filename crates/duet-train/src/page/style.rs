//! Colours and layout of the page.

pub(crate) const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --faint: #5d6672; --rule: #d9dee4; --own: #2f6db5; --other: #8794a3;
  --good: #2a7d46; --bad: #b3261e; --c1: #c2452d; --c2: #2a7d46; --c3: #8b5fbf; --c4: #a87416; --c5: #7a8592; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #14181e; --faint: #98a2ae; --rule: #333b46; --own: #6ba6ee; --other: #76828f;
    --good: #6cc48a; --bad: #ff8a80; --c1: #ef7d66; --c2: #6cc48a; --c3: #b79ae0; --c4: #e0b45c; --c5: #8f9aa6; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: left; white-space: nowrap; unicode-bidi: isolate; }
.facts td { white-space: normal; overflow-wrap: anywhere; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.note, figcaption { color: var(--faint); } .charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0; }
figure { margin: 0; max-width: 100%; break-inside: avoid; } svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .v { fill: var(--faint); }
.grid { stroke: var(--rule); } .mark { stroke: var(--faint); stroke-dasharray: 4 3; } .w { stroke: var(--other); stroke-width: 2; }
circle { fill: var(--other); } .own circle, .own rect { fill: var(--own); } .own .w { stroke: var(--own); } .own text:first-of-type { font-weight: 600; }
.good circle { fill: var(--good); } .good .w { stroke: var(--good); } .bad circle { fill: var(--bad); } .bad .w { stroke: var(--bad); }
polyline { fill: none; stroke-width: 2; } .c0 polyline { stroke: var(--own); } .c0 circle, .c0 rect { fill: var(--own); }
.c1 polyline { stroke: var(--c1); } .c1 circle, .c1 rect { fill: var(--c1); } .c2 polyline { stroke: var(--c2); } .c2 circle, .c2 rect { fill: var(--c2); }
.c3 polyline { stroke: var(--c3); } .c3 circle, .c3 rect { fill: var(--c3); } .c4 polyline { stroke: var(--c4); } .c4 circle, .c4 rect { fill: var(--c4); }
.c5 polyline { stroke: var(--c5); } .c5 circle, .c5 rect { fill: var(--c5); }
pre { background: color-mix(in srgb, var(--rule) 35%, transparent); padding: 1rem; overflow-x: auto; font-size: .8rem; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--faint); }
@media print { :root { color-scheme: light; } body { max-width: none; margin: 0; font-size: 12px; } .scroll { overflow: visible; }
  svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; } tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  table { font-size: .7rem; } th, td { padding: .15rem .35rem; } pre { white-space: pre-wrap; } }
";
