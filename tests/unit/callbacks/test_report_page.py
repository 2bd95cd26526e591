"""The report page: what it shows, what it must not show, and that nothing in it is executed."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dialogues import PRIVATE_OUTPUT, episode, problem, turn

from rlef_lightning.callbacks import report_files
from rlef_lightning.callbacks.report_page import pair_by_problem, render_page
from rlef_lightning.callbacks.report_style import STYLE
from rlef_lightning.types import Episode, Verdict

OK, WRONG, SLOW = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.TIME_LIMIT
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=y>&amp;</pre>\x00\ud800"
FENCED = "Add them:\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nDone."
CODE = "a, b = map(int, input().split())\nprint(a + b)\n"
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Start tags in order, text by the innermost tag; an unbalanced page is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def rendered(path: Path, before: list[Episode], after: list[Episode], **changes: object) -> str:
    options: dict[str, object] = {
        "title": "A run",
        "summary": {"solve rate": 0.123456, "updates": 12000, "model": "tiny"},
        "problems": {"sum": problem("sum", "Print a + b.")},
        "curve_png": None,
    }
    render_page(path, before=before, after=after, **{**options, **changes})  # type: ignore[arg-type]
    return path.read_text()


@pytest.fixture
def before() -> list[Episode]:
    first = turn("No idea.", None, feedback="There is no code in your answer.")
    second = turn(FENCED, CODE, [OK, SLOW], feedback="Test 2 took too long.")
    return [episode("sum", [first, second, turn("print(3)", "print(4)", [OK, WRONG], finish="length")])]


@pytest.fixture
def after() -> list[Episode]:
    return [episode("sum", [turn(FENCED, CODE, [OK, OK])], private=[OK, OK, OK])]


def test_page_shows_both_dialogues(tmp_path: Path, before: list[Episode], after: list[Episode]) -> None:
    text = " ".join(Outline(rendered(tmp_path / "new" / "page.html", before, after)).text)
    for shown in (
        "Solved among those shown: 0 of 1 dialogue before training, 1 of 1 dialogue after training.",
        "Print a + b.",
        "no code in the response",
        "There is no code in your answer.",
        "1 of 2 public tests passed",
        "✗ test 2 time limit, 0.03 s",
        "Test 2 took too long.",
        "Program taken out of the response",
        "The response was cut at 2 tokens.",
        "✗ not solved: turn limit reached",
        "✓ solved in 1 turn",
        "newly solved",
        "Not run, because a public test failed.",
        "3 accepted (of 3)",
        "0.1235",
        "12,000",
    ):
        assert shown in text


def test_private_tests_are_counts_only(tmp_path: Path) -> None:
    half = episode("sum", [turn(FENCED, CODE, [OK, OK])], private=[OK, WRONG, WRONG])
    page = rendered(tmp_path / "page.html", [half], [])
    assert "1 accepted, 2 wrong answer (of 3)" in page
    assert "a private test failed" in page
    assert PRIVATE_OUTPUT not in page
    assert "private-input" not in page


def test_every_text_is_escaped(tmp_path: Path) -> None:
    hostile = episode(
        HOSTILE, [turn(HOSTILE + HOSTILE, HOSTILE, [WRONG], HOSTILE), turn("", None, feedback=HOSTILE)]
    )
    page = rendered(
        tmp_path / "page.html",
        [hostile],
        [hostile],
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        problems={HOSTILE: problem(HOSTILE, HOSTILE)},
    )
    outline = Outline(page)
    assert not {tag for tag, _ in outline.tags} & {"script", "img", "iframe", "object", "form"}
    assert not [name for _, attributes in outline.tags for name in attributes if name.startswith("on")]
    assert "\x00" not in page
    assert "\ufffd" in page


def test_page_is_self_contained_and_accessible(
    tmp_path: Path, before: list[Episode], after: list[Episode]
) -> None:
    png = tmp_path / "curve.png"
    png.write_bytes(b"\x89PNG")
    page = rendered(tmp_path / "page.html", before, after, curve_png=png)
    tags = Outline(page).tags
    assert "data:image/png;base64,iVBORw==" in page
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert ("html", {"lang": "en"}) in tags
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "Content-Security-Policy" in page
    levels = [int(tag[1]) for tag, _ in tags if tag in {"h1", "h2", "h3", "h4", "h5", "h6"}]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_links_lead_somewhere(tmp_path: Path, before: list[Episode], after: list[Episode]) -> None:
    tags = Outline(rendered(tmp_path / "page.html", before, after)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"}
    assert links == {"dialogues", "dialogue-1"} == set(ids)


def test_empty_and_unknown(tmp_path: Path, after: list[Episode]) -> None:
    assert "No dialogues were recorded." in rendered(tmp_path / "page.html", [], [], summary={})
    page = rendered(tmp_path / "page.html", [], after, problems={})
    assert "The statement of this problem is not at hand." in page
    assert "No dialogue on this problem was kept." in page


def test_pairs_are_by_problem_and_order(before: list[Episode], after: list[Episode]) -> None:
    other = episode("other", [turn("", None)])
    pairs = pair_by_problem([*before, other], [after[0], after[0]])
    assert [(p.problem_id, p.before, p.after) for p in pairs] == [
        ("sum", before[0], after[0]),
        ("sum", None, after[0]),
        ("other", other, None),
    ]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_contrast_in_light_and_dark(scheme: int) -> None:
    colours = dict(
        re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[scheme])
    )
    pairs = [(text, back) for text in ("ink", "faint", "accent") for back in ("page", "card")]
    pairs += [(kind, f"{kind}-bg") for kind in ("good", "bad", "warn")]
    pairs += [(text, "sunk") for text in ("ink", "faint", "key", "text", "note")]
    for pair in pairs:
        dark, light = sorted(luminance(colours[name]) for name in pair)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    report_files.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(report_files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report_files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
