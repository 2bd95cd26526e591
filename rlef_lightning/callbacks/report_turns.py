"""One episode -> HTML: its turns, verdicts and feedback, every word of it escaped.

Private tests are shown as counts only: neither their inputs nor any output is in the page.
"""

from __future__ import annotations

import html
import keyword
import re
from collections import Counter

from rlef_lightning.types import Episode, Report, StopReason, TestResult, Turn, Verdict

LABELS = {verdict: verdict.value.replace("_", " ") for verdict in Verdict} | {
    Verdict.RUNTIME_ERROR: "run-time error"
}
STOPS = {
    StopReason.PUBLIC_TESTS_PASSED: "a private test failed",
    StopReason.TURN_LIMIT: "turn limit reached",
    StopReason.CONTEXT_LIMIT: "context full",
}
"""Why an episode that is not solved is not."""

# Characters that HTML does not allow: C0 controls but tab and newline, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_FENCE_BEFORE, _FENCE_AFTER = re.compile(r"\s*```[^\n]*\n\Z"), re.compile(r"\A\s*```[^\n]*")
_TOKEN = re.compile(
    r"(?P<c>\#[^\n]*)"
    r"|(?P<s>'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")"
    r"|(?P<k>\b(?:" + "|".join(keyword.kwlist) + r")\b)",
    re.DOTALL,
)


def escape(text: str) -> str:
    """Text -> HTML that shows it literally; what HTML cannot hold becomes the replacement character."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return html.escape(_UNPRINTABLE.sub("\ufffd", plain), quote=True)


def badge(words: str, kind: str = "") -> str:
    """A small label; colour only repeats what the words say. `kind`: good, bad, warn or empty."""
    return f'<span class="badge {kind}">{escape(words)}</span>'


def outcome_badge(episode: Episode | None) -> str:
    """How an episode ended, in a few words."""
    if episode is None:
        return badge("not recorded")
    if episode.solved:
        return badge(f"✓ solved in {count(len(episode.turns), 'turn')}", "good")
    return badge(f"✗ not solved: {STOPS[episode.stop_reason]}", "bad")


def count(number: int, noun: str) -> str:
    """`1 turn`, `3 turns`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def render_episode(episode: Episode | None, title: str, css_class: str) -> str:
    """One column of a problem: heading and outcome, the turns, the private tests' counts."""
    head = f'<div class="head"><h4>{escape(title)}</h4>{outcome_badge(episode)}</div>'
    if episode is None:
        body = '<p class="muted">No dialogue on this problem was kept.</p>'
    else:
        turns = [_render_turn(turn, number) for number, turn in enumerate(episode.turns, start=1)]
        body = "\n".join(turns) + _private_counts(episode.private_report)
    return f'<div class="episode {css_class}">{head}\n{body}</div>'


def _render_turn(turn: Turn, number: int) -> str:
    feedback = ""
    if turn.feedback is not None:
        feedback = f'<h6>Feedback to the model</h6><pre class="told">{escape(turn.feedback)}</pre>'
    return (
        f'<details class="turn" open><summary><h5>Turn {number}</h5> {_turn_badge(turn)}</summary><div>'
        f"{_response(turn)}{_cut_note(turn)}{_public_verdicts(turn.public_report)}{feedback}</div></details>"
    )


def _turn_badge(turn: Turn) -> str:
    if turn.public_report is None:
        return badge("no code in the response", "warn")
    results = turn.public_report.results
    passed = sum(result.passed for result in results)
    return badge(
        f"{passed} of {count(len(results), 'public test')} passed", "good" if turn.passed_public else "bad"
    )


def _response(turn: Turn) -> str:
    """The response as it was written, with its program set apart where it stands."""
    code = (turn.code or "").strip("\n")
    before, found, after = turn.response.partition(code) if code else (turn.response, "", "")
    if code and not found:
        return _prose(turn.response) + "<h6>Program taken out of the response</h6>" + _code(code)
    if not code:
        return _prose(before) or '<p class="muted">The response is empty.</p>'
    return _prose(_FENCE_BEFORE.sub("", before)) + _code(code) + _prose(_FENCE_AFTER.sub("", after))


def _prose(text: str) -> str:
    return f'<p class="quote">{escape(text.strip())}</p>' if text.strip() else ""


def _code(code: str) -> str:
    # Focusable, so that long lines can be scrolled to from the keyboard.
    return f'<pre class="code" tabindex="0"><code>{_highlight(code)}</code></pre>'


def _highlight(code: str) -> str:
    """Escaped Python with comments, strings and keywords marked."""
    parts, end = [], 0
    for match in _TOKEN.finditer(code):
        parts.append(escape(code[end : match.start()]))
        parts.append(f'<span class="{match.lastgroup}">{escape(match.group())}</span>')
        end = match.end()
    return "".join(parts) + escape(code[end:])


def _cut_note(turn: Turn) -> str:
    if turn.completion.finish_reason != "length":
        return ""
    return f'<p class="muted">The response was cut at {len(turn.completion.token_ids):,} tokens.</p>'


def _public_verdicts(report: Report | None) -> str:
    if report is None:
        return ""
    items = [f"<li>{_verdict_badge(result, i)}</li>" for i, result in enumerate(report.results, start=1)]
    return f'<h6>Public tests</h6><ul class="badges">{"".join(items)}</ul>'


def _verdict_badge(result: TestResult, number: int) -> str:
    if result.verdict is Verdict.SKIPPED:
        return badge(f"– test {number} skipped")
    mark, kind = ("✓", "good") if result.passed else ("✗", "bad")
    return badge(f"{mark} test {number} {LABELS[result.verdict]}, {result.cpu_s:.2f} s", kind)


def _private_counts(report: Report | None) -> str:
    """Counts by verdict; nothing of what the tests read or print."""
    if report is None:
        words = "Not run, because a public test failed."
    else:
        counts = Counter(result.verdict for result in report.results)
        words = ", ".join(f"{counts[verdict]} {LABELS[verdict]}" for verdict in Verdict if counts[verdict])
        words += f" (of {len(report.results)})"
    return f'<p class="private muted">Private tests: {words}</p>'
