"""Templates are checked when they are given and treat what is filled in as text."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from rlef_lightning.dialogue import Prompts, render_first_message
from rlef_lightning.dialogue.prompts import TEMPLATE_FIELDS
from rlef_lightning.errors import ConfigError

DEFAULT = Prompts()


class Owner:
    """A class that takes its prompts from a config, as the data module does."""

    def __init__(self, prompts: Prompts = DEFAULT) -> None:
        self.prompts = prompts


def test_every_text_setting_is_a_checked_template() -> None:
    texts = {field.name for field in fields(Prompts) if isinstance(getattr(Prompts(), field.name), str)}
    assert texts == set(TEMPLATE_FIELDS)


def test_first_message_holds_statement_and_format_in_order() -> None:
    text = render_first_message(Prompts(), "Add a and b.\n")
    assert text.index("Add a and b.\n") < text.index("```python")


@given(st.text())
def test_contents_are_inert(statement: str) -> None:
    prompts = Prompts(first="{{x}} {statement}|{format_request}", format_request="F")
    assert render_first_message(prompts, statement) == "{x} " + statement + "|F"


@pytest.mark.parametrize("content", ["{input}", "{", "}}", "{0!r:>10}", "$x"])
def test_braces_in_contents_mean_nothing(content: str) -> None:
    assert render_first_message(Prompts(first="{statement}"), content) == content


@pytest.mark.parametrize(
    ("template", "text", "message"),
    [
        ("wrong_answer", "{inputs}", r"prompts.wrong_answer names the unknown field \{inputs\}.*\{input\}"),
        ("time_limit", "{expected}", r"prompts.time_limit names the unknown field \{expected\}"),
        ("format_request", "{format_request}", "its fields are: none"),
        ("first", "Solve it.", r"prompts.first lacks the field \{statement\}"),
        ("feedback", "Again.", r"prompts.feedback lacks the field \{results\}"),
        ("no_code", "{", "prompts.no_code is not a valid template"),
        ("wrong_answer", "{}", r"unknown field \{\}"),
        ("wrong_answer", "{input.real}", "unknown field"),
        ("wrong_answer", "{input[0]}", "unknown field"),
        ("wrong_answer", "{input!r}", "has a format after"),
        ("wrong_answer", "{input:>9}", "has a format after"),
    ],
)
def test_wrong_templates_name_themselves_and_the_field(template: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prompts(**{template: text})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_listed_tests", "max_test_chars", "max_traceback_chars"])
def test_lengths_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"prompts.{name} is 0; it must be at least 1"):
        Prompts(**{name: 0})  # type: ignore[arg-type]


def test_a_config_can_replace_templates() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Owner, "data")
    found = parser.parse_object({"data": {"prompts": {"no_code": "none", "max_listed_tests": 2}}})
    owner = parser.instantiate(found).data
    assert owner.prompts == Prompts(no_code="none", max_listed_tests=2)
    assert parser.instantiate(parser.get_defaults()).data.prompts == Prompts()
