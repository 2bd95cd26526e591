"""Episodes before and after training -> one self-contained HTML page to read them side by side.

One file: style and image are inside, nothing is loaded, nothing is executed (a content security policy
says so to the browser as well). Works without JavaScript, from a keyboard, on paper, light and dark.
Standard library only; chooses no episodes and computes no metrics.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from rlef_lightning.callbacks.report_files import write_atomically
from rlef_lightning.callbacks.report_style import STYLE
from rlef_lightning.callbacks.report_turns import badge, count, escape, outcome_badge, render_episode
from rlef_lightning.types import Episode, Problem

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two dialogues on one problem, either of which may be missing."""

    problem_id: str
    before: Episode | None
    after: Episode | None


def render_page(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, float | str],
    before: Sequence[Episode],
    after: Sequence[Episode],
    problems: Mapping[str, Problem],
    curve_png: Path | None,
) -> None:
    """Write the page to `path`, atomically.

    The i-th dialogue of a problem before training stands beside its i-th after; problems come in the
    order of `before`, then of `after`. `curve_png` is embedded; None leaves the section out.
    """
    pairs = pair_by_problem(before, after)
    sections = [
        _summary(summary),
        _curves(curve_png),
        _overview(pairs),
        _dialogues(pairs, problems),
    ]
    page = _document(title, _lead(before, after), "\n".join(sections))
    write_atomically(path, page.encode("utf-8"))


def pair_by_problem(before: Sequence[Episode], after: Sequence[Episode]) -> list[Pair]:
    """The dialogues of each problem side by side, in the order in which they were given."""
    ids = dict.fromkeys(episode.problem_id for episode in (*before, *after))
    grouped = {
        i: ([e for e in before if e.problem_id == i], [e for e in after if e.problem_id == i]) for i in ids
    }
    return [
        Pair(problem_id=problem_id, before=first, after=second)
        for problem_id, (firsts, seconds) in grouped.items()
        for first, second in zip_longest(firsts, seconds)
    ]


def _document(title: str, lead: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#dialogues">Skip to the dialogues</a>
<header><h1>{escape(title)}</h1><p class="lead">{lead}</p></header>
<main>
{body}
</main>
<footer><p>A turn is one response of the model. Public tests give the feedback that it reads; an episode is
solved when its last program passes the public and the private tests. What private tests read and expect
is not in this page.</p></footer>
</body>
</html>
"""


def _lead(before: Sequence[Episode], after: Sequence[Episode]) -> str:
    """One sentence: how many of the dialogues shown were solved."""
    shown = [(name, episodes) for name, episodes in (("before", before), ("after", after)) if episodes]
    parts = [
        f"{sum(e.solved for e in es)} of {count(len(es), 'dialogue')} {name} training" for name, es in shown
    ]
    return f"Solved among those shown: {', '.join(parts)}." if parts else "No dialogues were recorded."


def _summary(summary: Mapping[str, float | str]) -> str:
    if not summary:
        return ""
    tiles = [f"<div><dt>{escape(name)}</dt>{_tile_value(value)}</div>" for name, value in summary.items()]
    return f'<section><h2>Summary</h2><dl class="tiles">{"".join(tiles)}</dl></section>'


def _tile_value(value: float | str) -> str:
    if isinstance(value, str):
        return f'<dd class="words">{escape(value)}</dd>'
    whole = isinstance(value, int) or (value.is_integer() and abs(value) >= 1000)
    return f"<dd>{int(value):,}</dd>" if whole else f"<dd>{value:.4g}</dd>"


def _curves(curve_png: Path | None) -> str:
    if curve_png is None:
        return ""
    data = base64.b64encode(curve_png.read_bytes()).decode("ascii")
    words = "Solve rate, KL to the initial policy, entropy, value fit and throughput over the epochs"
    return (
        f'<section><h2>Learning curves</h2><figure><img alt="{words}" src="data:image/png;base64,{data}">'
        f"<figcaption>{words}.</figcaption></figure></section>"
    )


def _overview(pairs: Sequence[Pair]) -> str:
    """A table of outcomes that leads to the dialogues."""
    if not pairs:
        return ""
    rows = [
        f'<tr><th scope="row"><a href="#dialogue-{i}">{escape(pair.problem_id)}</a></th>'
        f"<td>{outcome_badge(pair.before)}</td><td>{outcome_badge(pair.after)}</td></tr>"
        for i, pair in enumerate(pairs, start=1)
    ]
    return (
        '<section><h2>Outcomes</h2><div class="scroll" tabindex="0"><table>'
        '<thead><tr><th scope="col">Problem</th><th scope="col">Before training</th>'
        '<th scope="col">After training</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _dialogues(pairs: Sequence[Pair], problems: Mapping[str, Problem]) -> str:
    cards = [_card(pair, problems.get(pair.problem_id), number) for number, pair in enumerate(pairs, start=1)]
    return f'<section id="dialogues"><h2>Dialogues</h2>{"".join(cards)}</section>'


def _card(pair: Pair, problem: Problem | None, number: int) -> str:
    """One problem, collapsible; the first is open. A link to the inner div opens the others."""
    return (
        f'<details class="problem"{" open" if number == 1 else ""}>'
        f"<summary><h3>{escape(pair.problem_id)}</h3> {_change_badge(pair)}</summary>"
        f'<div id="dialogue-{number}">{_statement(problem)}<div class="pair">'
        f"{render_episode(pair.before, 'Before training', 'before')}"
        f"{render_episode(pair.after, 'After training', 'after')}</div></div></details>\n"
    )


def _change_badge(pair: Pair) -> str:
    if pair.before is None or pair.after is None:
        return ""
    if pair.before.solved == pair.after.solved:
        return badge("solved both times" if pair.after.solved else "not solved either time")
    return badge("newly solved", "good") if pair.after.solved else badge("no longer solved", "bad")


def _statement(problem: Problem | None) -> str:
    if problem is None:
        return '<p class="muted">The statement of this problem is not at hand.</p>'
    public, private = len(problem.public_tests), len(problem.private_tests)
    tests = f"{count(public, 'public test')}, {count(private, 'private test')}"
    return (
        f'<details open><summary>Statement <span class="muted">({tests})</span></summary>'
        f'<p class="quote">{escape(problem.statement.strip())}</p></details>'
    )
