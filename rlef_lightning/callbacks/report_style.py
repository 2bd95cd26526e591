"""The report page's style sheet: two columns on a wide screen, light or dark as the reader's system is.

Every pair of text and background colours has a contrast of at least 4.5 : 1 (WCAG AA) in both schemes.
"""

STYLE = """
:root { color-scheme: light dark; --page: #f6f5f2; --card: #ffffff; --sunk: #f3f4f6;
  --line: #dcdfe4; --ink: #1d2530; --faint: #56606d; --accent: #1f5c99; --good: #1b6b45;
  --good-bg: #e2f3ea; --bad: #9c2f24; --bad-bg: #fbe9e6; --warn: #7a5200; --warn-bg: #fbf0d9;
  --key: #6b3fa0; --text: #22703f; --note: #626b76; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --card: #1c2128; --sunk: #14191f;
  --line: #343c46; --ink: #e3e7ec; --faint: #a0aab6; --accent: #7cb4ec; --good: #7fd3a5;
  --good-bg: #173327; --bad: #f0a196; --bad-bg: #3c211e; --warn: #e6c06a; --warn-bg: #362b12;
  --key: #c3a3f0; --text: #8fd3a6; --note: #96a0ac; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 88rem; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2.5rem); }
header { padding-top: 2.5rem; }
main { padding-bottom: 2rem; }
footer { color: var(--faint); font-size: .875rem; padding-bottom: 3rem; }
h1 { font-size: 1.85rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .4rem;
  text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .9rem; }
h3 { font-size: 1.05rem; margin: 0; }
h4 { font-size: .95rem; margin: 0; }
h5 { font-size: .9rem; margin: 0; }
h6 { font-size: .8rem; font-weight: 600; color: var(--faint); margin: .9rem 0 .3rem; }
p { margin: .4rem 0; }
.lead { color: var(--faint); margin: 0; max-width: 60rem; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: .75rem;
  margin: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .9rem; }
.tiles dt { overflow-wrap: anywhere; color: var(--faint); font-size: .8125rem; line-height: 1.35; }
.tiles dd { margin: .15rem 0 0; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; line-height: 1.3; }
.tiles dd.words { font-size: 1rem; font-weight: 500; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: .6rem;
  padding: .75rem; }
figure img { display: block; width: 100%; height: auto; max-width: 1400px; margin: 0 auto; }
figcaption { color: #56606d; font-size: .875rem; padding-top: .5rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td { text-align: left; padding: .5rem .9rem; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--faint); font-weight: 500; font-size: .8125rem; }
tbody th { font-weight: 500; overflow-wrap: anywhere; min-width: 8.5rem; }
summary { cursor: pointer; }
summary h3, summary h4, summary h5 { display: inline; }
.problem { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  margin: 0 0 1rem; }
.problem > summary { padding: .9rem 1.1rem; }
.problem > div { padding: 0 1.1rem 1.2rem; scroll-margin-top: 4rem; }
.problem > summary h3 { margin-right: .6rem; overflow-wrap: anywhere; }
.pair { display: grid; gap: 1.25rem; margin-top: 1rem; }
@media (min-width: 62rem) { .pair { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } }
.episode { border-top: 3px solid var(--line); padding-top: .7rem; min-width: 0; }
.episode.after { border-top-color: var(--accent); }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem .6rem;
  margin-bottom: .7rem; }
.turn { border: 1px solid var(--line); border-radius: .6rem; margin: 0 0 .75rem; min-width: 0; }
.turn > summary { padding: .5rem .8rem; }
.turn > div { padding: .1rem .8rem .8rem; }
.turn > summary h5 { margin-right: .5rem; }
.badge { display: inline-block; border-radius: .75rem; padding: .05rem .6rem; font-size: .8125rem;
  line-height: 1.5; background: var(--sunk); color: var(--faint); }
.badge.good { background: var(--good-bg); color: var(--good); }
.badge.bad { background: var(--bad-bg); color: var(--bad); }
.badge.warn { background: var(--warn-bg); color: var(--warn); }
.badges { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; margin: 0; padding: 0; }
.quote { max-width: 80ch; white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0;
  unicode-bidi: isolate; }
pre { font: .8125rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  margin: .3rem 0; background: var(--sunk); border: 1px solid var(--line); border-radius: .45rem;
  padding: .65rem .8rem; tab-size: 4; unicode-bidi: isolate; }
pre.code { overflow-x: auto; }
pre.told { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--warn); }
.k { color: var(--key); }
.s { color: var(--text); }
.c { color: var(--note); font-style: italic; }
.muted { color: var(--faint); font-size: .9rem; }
.private { border-top: 1px dashed var(--line); padding-top: .6rem; }
@media print { body { background: #fff; } .problem, .turn { break-inside: avoid-page; } }
"""
