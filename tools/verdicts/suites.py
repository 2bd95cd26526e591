"""Files of labelled programs -> suites of cases. Some are made by running programs; none is judged here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from rlef_lightning.execution import Executor
from tools.verdicts.cases import Suite
from tools.verdicts.contests import codecontests, kattis
from tools.verdicts.functions import evalplus, humanevalpack, quixbugs

_PLAIN: dict[str, Callable[[Path], Suite]] = {
    "codecontests_dev.parquet": codecontests,
    "judged.jsonl.gz": kattis,
    "quixbugs_python.jsonl.gz": quixbugs,
}
_MBPP, _HUMANEVAL, _PACK = "MbppPlus.jsonl.gz", "HumanEvalPlus.jsonl.gz", "humanevalpack.jsonl.gz"
FILES = (*_PLAIN, _MBPP, _HUMANEVAL, _PACK)
"""The tests of _PACK are those of _HUMANEVAL: without that file it is not judged."""


async def suites(files: Sequence[Path], executor: Executor, max_plus: int | None) -> AsyncIterator[Suite]:
    """The suite of every file, one after the other: some are made by running programs."""
    paths = {path.name: path for path in files}
    for name, read in _PLAIN.items():
        if name in paths:
            yield read(paths[name])
    if _MBPP in paths:
        yield (await evalplus(paths[_MBPP], "MBPP+", executor, max_plus))[0]
    if _HUMANEVAL in paths:
        suite, problems = await evalplus(paths[_HUMANEVAL], "HumanEval+", executor, max_plus)
        yield suite
        if _PACK in paths:
            yield humanevalpack(paths[_PACK], problems)
