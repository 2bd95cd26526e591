"""Where problems come from: CodeContests, JSON lines.

Files -> Problem. Importing this room is cheap: table readers load when a source is read. It runs
nothing and says nothing to the model.
"""

from rlef_lightning.problems.codecontests import CodeContests
from rlef_lightning.problems.json_lines import JsonLines, read_json_lines, write_json_lines
from rlef_lightning.problems.source import ProblemSource, Split, check_unique_ids

__all__ = [
    "CodeContests",
    "JsonLines",
    "ProblemSource",
    "Split",
    "check_unique_ids",
    "read_json_lines",
    "write_json_lines",
]
