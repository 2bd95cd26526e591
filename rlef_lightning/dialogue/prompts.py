"""The wording: templates and length limits -> the texts of one dialogue.

Every sentence that the environment says is a template here, so that a config can replace any of
them. This file does not decide which tests are shown (feedback.py) or how text becomes tokens
(context.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from rlef_lightning.errors import ConfigError

_TEST_FIELDS = frozenset({"number", "input", "format_request"})
_ERROR_FIELDS = _TEST_FIELDS | {"traceback", "error"}

TEMPLATE_FIELDS: dict[str, frozenset[str]] = {
    "format_request": frozenset(),
    "first": frozenset({"statement", "format_request"}),
    "feedback": frozenset({"results", "format_request"}),
    "no_code": frozenset({"format_request"}),
    "no_feedback": frozenset({"format_request"}),
    "wrong_answer": _TEST_FIELDS | {"expected", "output"},
    "exception": _ERROR_FIELDS,
    "time_limit": _TEST_FIELDS,
    "memory_limit": _TEST_FIELDS,
    "output_limit": _TEST_FIELDS,
    "passed": _TEST_FIELDS | {"output"},
    "all_passed": frozenset(),
    "separator": frozenset(),
}
"""The fields that each template may name."""

REQUIRED_FIELDS: dict[str, frozenset[str]] = {
    "first": frozenset({"statement"}),
    "feedback": frozenset({"results"}),
}
"""The fields without which a template would hide the task or the feedback altogether."""


# Without slots: jsonargparse reads the defaults of a settings class from an instance's __dict__.
@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates of all that is said to the model, with the paper's content (RLEF, sec. 2.1 and app. C).

    Fields stand in braces, as in str.format, without format specifications; a literal brace in a
    template is doubled. What is filled in is inert: braces in statements, inputs or outputs mean
    nothing. A template with an unknown field, or without a required one, is a ConfigError.

    Example, for a very small model: Prompts(wrong_answer="in {input} want {expected} got {output}",
    feedback="{results}", separator=" ", strip_final_newline=True)
    """

    format_request: str = (
        "Put the whole program into one block that starts with ```python and ends with ```, "
        "and use backticks for nothing else."
    )
    """How to write the answer; inserted wherever a template says {format_request}. No fields."""
    first: str = (
        "Write a Python program that solves the following programming problem. "
        "It must read from standard input and print to standard output.\n\n"
        "{statement}\n\n"
        "{format_request}"
    )
    """The first message. Fields: statement, format_request."""
    feedback: str = (
        "Your program was run on example tests.\n\n{results}\n\nPlease give it another try. {format_request}"
    )
    """A later message. Fields: results (the tests' lines, joined by `separator`), format_request."""
    no_code: str = "No program could be found in your response. Please give it another try. {format_request}"
    """The later message when the response held no code. Field: format_request."""
    no_feedback: str = "Please give it another try. {format_request}"
    """Every later message where play.feedback is "none". Field: format_request."""
    wrong_answer: str = (
        "Test {number}: wrong output.\nInput:\n{input}\nExpected output:\n{expected}\nYour output:\n{output}"
    )
    """One failed test. Fields: number, input, expected, output, format_request."""
    exception: str = (
        "Test {number}: the program stopped with an exception.\nInput:\n{input}\nStack trace:\n{traceback}"
    )
    """A run-time or syntax error. Fields: number, input, traceback, error (its last line), format_request."""
    time_limit: str = "Test {number}: the program ran out of time.\nInput:\n{input}"
    """Fields: number, input, format_request."""
    memory_limit: str = "Test {number}: the program ran out of memory.\nInput:\n{input}"
    """Fields: number, input, format_request."""
    output_limit: str = "Test {number}: the program printed too much.\nInput:\n{input}"
    """Fields: number, input, format_request."""
    passed: str = "Test {number}: correct output.\nInput:\n{input}\nYour output:\n{output}"
    """A passed test, said only with `list_passing`. Fields: number, input, output, format_request."""
    all_passed: str = "The program passed all of them."
    """Stands for the results where no test is listed. No fields."""
    separator: str = "\n"
    """Between the listed tests. No fields."""
    list_passing: bool = False
    """True: passed tests are listed too, as on HumanEval+ and MBPP+; False: failures only."""
    strip_final_newline: bool = False
    """True: inputs and outputs lose one final newline, for one-line templates; the paper keeps it."""
    max_listed_tests: int | None = None
    """At most so many tests are listed, the first ones; None: all."""
    max_test_chars: int = 512
    """An input, expected output or output is cut after so many characters."""
    max_traceback_chars: int = 1024
    """A stack trace keeps its last so many characters: the exception stands at the end."""

    def __post_init__(self) -> None:
        for name in TEMPLATE_FIELDS:
            _check_template(name, getattr(self, name))
        for name in ("max_listed_tests", "max_test_chars", "max_traceback_chars"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"prompts.{name} is {value}; it must be at least 1")

    def render(self, template: str, **fields: str) -> str:
        """Fill the named template. Unused fields are ignored; values are never parsed for fields."""
        text: str = getattr(self, template)
        request = "" if template == "format_request" else self.render("format_request")
        return text.format_map({"format_request": request, **fields})


def _check_template(name: str, template: str) -> None:
    """Refuse a template that could not be filled or that would leave out what it is for."""
    allowed = TEMPLATE_FIELDS[name]
    used = _fields_of(name, template)
    for unknown in sorted(used - allowed):
        known = ", ".join(f"{{{field}}}" for field in sorted(allowed)) or "none"
        raise ConfigError(
            f"prompts.{name} names the unknown field {{{unknown}}}; its fields are: {known} "
            "(write a literal brace twice)"
        )
    for missing in sorted(REQUIRED_FIELDS.get(name, frozenset()) - used):
        raise ConfigError(f"prompts.{name} lacks the field {{{missing}}}; found: {template!r}")


def _fields_of(name: str, template: str) -> set[str]:
    """The names between braces; conversions and format specifications are refused."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"prompts.{name} is not a valid template ({error}); write a literal brace twice; "
            f"found: {template!r}"
        ) from None
    for _, field, specification, conversion in parsed:
        if field is not None and (specification or conversion):
            raise ConfigError(
                f"prompts.{name} has a format after the field {{{field}}}; only plain {{{field}}} is allowed"
            )
    return {field for _, field, _, _ in parsed if field is not None}
