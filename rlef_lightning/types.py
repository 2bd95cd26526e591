"""The nouns: Problem -> Turn -> Episode -> ScoredEpisode -> TrainingSample.

Plain frozen values, standard library only, so that every room (and the executor's small processes)
can share them. A stage that knows more has a type of its own; no field is filled in later. This
file does not run programs, sample tokens or compute rewards.

Units stand in names (`_s`, `_bytes`, `_tokens`). `behaviour_` is the policy that sampled, `policy_`
the one being trained, `reference_` the frozen initial one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rlef_lightning.errors import ConfigError


class Verdict(enum.StrEnum):
    """What became of one test. An infrastructure failure is an exception, never a verdict."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    SYNTAX_ERROR = "syntax_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    SKIPPED = "skipped"
    """Not run, because an earlier test had failed and only the outcome mattered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run of a program may use. The defaults are the paper's (RLEF, sec. 3: 10 s, 1 GB)."""

    cpu_s: float = 10.0
    """CPU seconds, user and system; decides the time-limit verdict."""
    wall_s: float = 30.0
    """Seconds on the clock: a guard against programs that sleep, generous because machines are shared."""
    memory_bytes: int = 1 << 30
    """Address space of each process of the program."""
    output_bytes: int = 16 << 20
    """Bytes of stdout, and of stderr, each."""
    file_bytes: int = 64 << 20
    """Size of any one file that the program writes."""
    processes: int = 32
    """Processes and threads of the program at any one time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRule:
    """How an output is compared with the expected one; the default is exact integers, tolerant floats."""

    exact_whitespace: bool = False
    """True: character for character; False: token by token, split on ASCII white space."""
    ignore_case: bool = False
    """True: both sides are lower-cased first."""
    absolute_tolerance: float = 1e-6
    """Largest absolute difference at which two non-integer numbers are equal."""
    relative_tolerance: float = 1e-6
    """Largest difference relative to the expected number; either tolerance suffices."""
    integers_as_floats: bool = False
    """True: expected integers, too, are compared as numbers within the tolerances; but two integers of which
    one is beyond 2**53 exactly, since doubles cannot tell them apart."""
    checker: str = ""
    """Python source that decides instead of the comparison, for tasks with many right answers; run in the
    sandbox like a solution, by the convention of the Kattis problem format (docs/executors.md)."""


CODECONTESTS_RULE = OutputRule(
    ignore_case=True, absolute_tolerance=1e-5, relative_tolerance=0.0, integers_as_floats=True
)
"""The rule of DeepMind's runner (RLEF, sec. 3): lower-cased tokens, numbers within an absolute 1e-5.

It differs on purpose in integers beyond 2**53, which that runner takes for equal when their doubles are
(docs/executors.md).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """How a solution gets its input and gives its answer; the default is stdin and stdout.

    Example: Interface(function="add") for tests such as TestCase(stdin="(3, 4)", expected_stdout="7").
    """

    input_file: str = ""
    """The input is a file of this name in the working directory; empty: stdin."""
    output_file: str = ""
    """The answer is read from a file of this name in the working directory; empty: stdout."""
    function: str = ""
    """The solution defines this function; a test's stdin is the Python literal of its arguments (a tuple),
    the expected output that of its value. Empty: the solution is a program."""

    def __post_init__(self) -> None:
        for name in (self.input_file, self.output_file):
            if "/" in name or "\0" in name or name in (".", ".."):
                raise ConfigError(
                    f"a file of the interface is called {name!r}; needed: a name without folders"
                )
        if self.function and (self.input_file or self.output_file):
            raise ConfigError(
                f"the interface names the function {self.function!r} and files; it can have either"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One run of a program: what it reads and what it must print, final newlines kept.

    Example: TestCase(stdin="3 4\\n", expected_stdout="7\\n")
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    stdin: str
    expected_stdout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A task with its two kinds of tests (RLEF, sec. 2.1).

    Example: Problem(id="sum-1", statement="Read a and b. Print a + b.", public_tests=(...,), ...)
    """

    id: str
    """Unique within its source; the key of metrics, seeds and stored episodes."""
    statement: str
    public_tests: tuple[TestCase, ...]
    """Give the feedback; may be shown to the model."""
    private_tests: tuple[TestCase, ...]
    """Give the reward, together with the public ones; their expected outputs never reach the model."""
    limits: Limits = Limits()
    rule: OutputRule = OutputRule()
    interface: Interface = Interface()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free text about the origin (family, rating), for grouping in reports only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What one test did.

    Example: TestResult(verdict=Verdict.WRONG_ANSWER, stdout="8\\n", stderr="", cpu_s=0.01, ...)
    """

    __test__ = False

    verdict: Verdict
    stdout: str
    """What was printed, cut at the reporting length of the executor."""
    stderr: str
    """The end of the error stream (a traceback's last lines), cut likewise."""
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int

    @property
    def passed(self) -> bool:
        """True when the test was accepted."""
        return self.verdict is Verdict.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One solution judged on a list of tests; `results[i]` belongs to test i. Never empty."""

    results: tuple[TestResult, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("a Report needs at least one result: an empty test list cannot be passed")

    @property
    def passed(self) -> bool:
        """True when every test was accepted."""
        return all(result.passed for result in self.results)

    @property
    def first_failure(self) -> Verdict | None:
        """The verdict of the first test that was not accepted, or None."""
        return next((r.verdict for r in self.results if not r.passed), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One response as the engine sampled it.

    Example: Completion(token_ids=(17, 4, 2), logprobs=(-0.1, -2.3, -0.01), finish_reason="stop", ...)
    """

    token_ids: tuple[int, ...]
    """The sampled ids, the end-of-turn token included where it was sampled."""
    logprobs: tuple[float, ...]
    """Natural-log probability of each id under the distribution it was drawn from (the behaviour policy)."""
    finish_reason: str
    """"stop" when the end-of-turn token was sampled, "length" when the token limit cut the response."""
    policy_version: int
    """Number of the weights that sampled it; counts weight syncs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One response with all that led to it and all that came of it (RLEF, sec. 2.1)."""

    prompt_token_ids: tuple[int, ...]
    """The whole context before the response: statement, earlier responses, feedback."""
    completion: Completion
    response: str
    """The completion's text, special tokens left out; for people and for taking out the code."""
    code: str | None
    """The program that was taken out of the response; None when there was none."""
    public_report: Report | None
    """The code's run on the public tests; None when there was no code."""
    feedback: str | None
    """What the model was told next; None after the last turn."""

    @property
    def has_valid_code(self) -> bool:
        """True when there is a program and it compiles (RLEF, sec. 2.2: the -0.2 is for its absence)."""
        if self.public_report is None:
            return False
        return all(r.verdict is not Verdict.SYNTAX_ERROR for r in self.public_report.results)

    @property
    def passed_public(self) -> bool:
        """True when the turn's program passed every public test."""
        return self.public_report is not None and self.public_report.passed


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    PUBLIC_TESTS_PASSED = "public_tests_passed"
    TURN_LIMIT = "turn_limit"
    CONTEXT_LIMIT = "context_limit"
    """The next prompt and a response would not have fitted into the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One dialogue on one problem, judged. All that training and metrics need of it."""

    problem_id: str
    sample_index: int
    """Which of the problem's rollouts in this batch."""
    seed: int
    """What the engine's seeds of this episode were derived from."""
    turns: tuple[Turn, ...]
    private_report: Report | None
    """The last solution's run on the private tests; None when it had failed a public test already."""
    stop_reason: StopReason

    @property
    def solved(self) -> bool:
        """True when the last solution passed every public and every private test: the paper's success."""
        return self.turns[-1].passed_public and self.private_report is not None and self.private_report.passed


ActionLevel: TypeAlias = Literal["turn", "token"]
"""What has an advantage and a value of its own: a response (RLEF, sec. 2.2), or each of its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredEpisode:
    """An episode with what the objective needs: one number a turn (RLEF, sec. 2.2), and one an action.

    An action is a turn, or each response token where a value is read before each token.
    """

    episode: Episode
    turn_rewards: tuple[float, ...]
    """r_t: task reward of each turn, without the KL part."""
    mean_log_ratios: tuple[float, ...]
    """Mean over a response's tokens of log(policy / reference): the KL part before beta."""
    episode_return: float
    """sum of all R_t = r_t - beta * mean_log_ratio_t; gamma = 1."""
    returns: tuple[float, ...]
    """What V is fitted to. Turns: sum over i >= t of R_i. Tokens: lambda-returns."""
    values: tuple[float, ...]
    """V(c_t), read at the token before each action; 0 where there is no value network."""
    advantages: tuple[float, ...]
    """returns - values, normalised; of GRPO and RLOO the episode's, in each turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSpan:
    """Where one response lies in a TrainingSample's tokens, with its numbers; or one token of a response,
    where a value is read before each token."""

    start: int
    """Index of the response's first token; `start - 1` is the prompt's last token, where V is read."""
    stop: int
    """Index after the response's last token."""
    advantage: float
    value: float
    """V at collection, for the value clip."""
    value_target: float
    """The return that V is fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One episode as one token sequence: all its turns in one forward pass."""

    token_ids: tuple[int, ...]
    spans: tuple[TurnSpan, ...]
    """In order, not overlapping; tokens outside every span are prompts and feedback, never trained on."""
    behaviour_logprobs: tuple[float, ...]
    """Of the spans' tokens, concatenated."""
    policy_logprobs: tuple[float, ...]
    """Likewise, by the trainer's weights at collection (pi_old of the clipped ratio)."""
    reference_logprobs: tuple[float, ...] = ()
    """Likewise, by the frozen initial policy; empty where the loss has no KL."""

    @property
    def response_tokens(self) -> int:
        """Number of tokens inside spans."""
        return sum(span.stop - span.start for span in self.spans)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are drawn (RLEF, sec. 3)."""

    temperature: float = 1.0
    """Divides the logits; 1 samples from the model itself, as training needs."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are drawn from; 1: all."""
    max_response_tokens: int = 256
    """A response is cut there; see `PlaySettings.cut_responses`."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_response_tokens < 1:
            raise ConfigError(
                f"sampling has temperature={self.temperature}, top_p={self.top_p} and max_response_tokens="
                f"{self.max_response_tokens}; needed: at least 0, above 0 and at most 1, at least 1"
            )
