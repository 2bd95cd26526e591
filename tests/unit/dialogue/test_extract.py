"""Code is taken out of the first python block, else of the first block, and never out of half a block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.dialogue import answer_in, extract_code

CASES = {
    "python": ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)"),
    "no newline at the end": ("```python\nprint(1)\n```", "print(1)"),
    "closed on the last line": ("```python\nprint(1)```", "print(1)"),
    "capital tag": ("```Python\nx\n```", "x"),
    "short tag": ("```py\nx\n```", "x"),
    "version tag": ("```python3\nx\n```", "x"),
    "space before the tag": ("``` python\nx\n```", "x"),
    "attributes": ('```python title="a.py"\nx\n```', "x"),
    "carriage returns": ("```python\r\nx\r\ny\r\n```\r\n", "x\ny"),
    "opened after text": ("Sure: ```python\nx\n```", "x"),
    "mentioned in prose": ("Use a ``` fence, or `x`.\n```python\nx\n```", "x"),
    "first of two": ("```python\na\n```\n```python\nb\n```", "a"),
    "python before untagged": ("```\na\n```\n```python\nb\n```", "b"),
    "untagged": ("```\na\n```", "a"),
    "other tag": ("```cpp\na\n```", "a"),
    "longer fence around a fence": ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
    "nested opening": ("```python\n# ```python\nx\n```", "# ```python\nx"),
    "indented": ("1. Code:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
    "blank block passed over": ("```python\n\n```\n```python\nx\n```", "x"),
    "blank lines kept": ("```python\n\nx\n\n```", "\nx\n"),
    "form feed is no line end": ("```python\nx\x0cy\n```", "x\x0cy"),
    "no block": ("print(1)", None),
    "empty": ("", None),
    "blank block": ("```python\n \n```", None),
    "one line": ("```print(1)```", None),
    "unclosed": ("```python\nprint(", None),
    "only an opening": ("```python", None),
    "untagged, then unclosed python": ("```\na\n```\n```python\nb", None),
    "closed python, then unclosed": ("```python\na\n```\n```python\nb", "a"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_cases(name: str) -> None:
    response, expected = CASES[name]
    assert extract_code(response) == expected


@given(
    st.text() | st.lists(st.sampled_from(["```", "`", "python", "\n", "\r", " ", "x", "````"])).map("".join)
)
def test_never_raises_and_never_gives_blank_code(response: str) -> None:
    code = extract_code(response)
    assert code is None or code.strip()


@given(
    st.text(st.characters(blacklist_characters="`\r")).filter(str.strip),
    st.text(st.characters(blacklist_characters="`")),
    st.text(),
)
def test_code_without_fences_survives(code: str, before: str, after: str) -> None:
    assert extract_code(f"{before}\n```python\n{code}\n```\n{after}") == code


@pytest.mark.timeout(10)
@pytest.mark.parametrize("line", ["`" * 100_000, "```" + "a" * 100_000 + "`", "a" * 100_000, "``` " * 50_000])
def test_long_lines_take_linear_time(line: str) -> None:
    extract_code(line)
    extract_code(f"```python\n{line}\n```")


def test_the_answer_stands_after_the_thoughts() -> None:
    response = "<think>\n```python\ndraft\n```\n</think>\nSo:\n```python\nfinal\n```"
    assert extract_code(response) == "draft"
    answer = answer_in(response, "</think>")
    assert answer is not None
    assert extract_code(answer) == "final"
    assert answer_in("a</think>b</think>c", "</think>") == "c"
    assert answer_in("<think>still thinking", "</think>") is None
    assert answer_in(response, "") == answer_in(response, None) == response
