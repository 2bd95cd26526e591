"""Where problems come from: CodeContests, JSON lines, the embedded micro set.

Files -> Problem. Importing this room is cheap: table readers load when a source is read. It runs
nothing and says nothing to the model.
"""

from rlef_lightning.problems.codecontests import CodeContests
from rlef_lightning.problems.json_lines import JsonLines, read_json_lines, write_json_lines
from rlef_lightning.problems.micro import MicroProblems
from rlef_lightning.problems.source import ProblemSource, Split

__all__ = [
    "CodeContests",
    "JsonLines",
    "MicroProblems",
    "ProblemSource",
    "Split",
    "read_json_lines",
    "write_json_lines",
]
