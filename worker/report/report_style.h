#ifndef SHOAL_WORKER_REPORT_REPORT_STYLE_H_
#define SHOAL_WORKER_REPORT_REPORT_STYLE_H_

#include <string_view>

namespace shoal::worker {

// The style sheet of report.html.
inline constexpr std::string_view kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #f4f6f9; --card: #ffffff; --ink: #18202c; --muted: #667386;
  --edge: #e1e6ed; --grid: #edf0f4; --line: #2463d6; --mark: #0b8a6f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e131a; --card: #161d27; --ink: #e5eaf1; --muted: #93a1b3;
    --edge: #283241; --grid: #222b38; --line: #6ea6ff; --mark: #3fcfaa;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px;
  overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 36px 0 12px; }
h3 { font-size: 14px; margin: 0 0 8px; }
.muted, .note { color: var(--muted); }
.note { font-size: 13px; margin: 6px 0 0; }
.chips { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; }
.chip { background: var(--card); border: 1px solid var(--edge);
  border-radius: 999px; padding: 1px 11px; font-size: 13px; }
.cards { display: grid; gap: 12px; margin-top: 24px;
  grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.card, .box { background: var(--card); border: 1px solid var(--edge);
  border-radius: 12px; }
.card { padding: 12px 16px; }
.card .name { color: var(--muted); font-size: 13px; }
.card .value { font-size: 24px; line-height: 1.3; font-weight: 600;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.card.main .value { color: var(--mark); }
.grid { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.box { padding: 16px 18px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--grid); }
tr:last-child > * { border-bottom: 0; }
th { color: var(--muted); font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
td.text { overflow-wrap: anywhere; }
td.good { color: var(--mark); font-weight: 600; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
pre { margin: 12px 0 0; overflow-x: auto; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
svg { display: block; width: 100%; height: auto; }
svg path { fill: none; }
path.rule { stroke: var(--grid); }
path.axis { stroke: var(--muted); stroke-opacity: 0.6; }
path.line { stroke: var(--line); stroke-width: 2.2; stroke-linejoin: round; }
path.pale { stroke: var(--line); stroke-opacity: 0.4; stroke-linejoin: round; }
circle.dot { fill: var(--card); stroke: var(--line); stroke-width: 2; }
circle.best { fill: var(--mark); stroke: var(--card); stroke-width: 2; }
text.tick { fill: var(--muted); font-size: 12px; }
text.mark { fill: var(--mark); font-size: 13px; font-weight: 600; }
footer { margin-top: 32px; color: var(--muted); font-size: 13px; }
@media print {
  body { background: none; }
  .card, .box { break-inside: avoid; }
}
)css";

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_REPORT_STYLE_H_
