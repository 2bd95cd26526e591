"""random.Random -> Draft: the families of the micro problem set, a function each.

A family's statement either says all that is needed (`arithmetic`) or leaves out one thing that only
execution feedback on the public tests reveals. Every draft carries a correct program and the wrong
programs that somebody would try first. This file does not split, name or judge problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Pair = tuple[str, str]
"""stdin and expected stdout, without final newlines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A micro problem before it has an id and a split.

    Example: statement "Read n. Print n plus the secret number.", public (("0", "47"),),
    solution "print(int(input())+47)", guesses ("print(int(input())+1)",)
    """

    statement: str
    public: tuple[Pair, ...]
    private: tuple[Pair, ...]
    solution: str
    """Passes every test."""
    guesses: tuple[str, ...]
    """Plausible first programs, likeliest first, all of which fail a public test. Empty where the
    statement says everything."""
    key: str
    """What decides statement and solution; the splits are disjoint in it, hence in both."""


Family = Callable[[Random], Draft]

# No m: "name" stands in a statement and must not be a secret.
_SYLLABLES = [c + v for c in "bdfgklnprstvz" for v in "aeiou"]
_SEPARATORS = list(",;:/|#&=~^!?@%*$-<>")
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "a+b": lambda a, b: a + b,
    "a-b": lambda a, b: a - b,
    "a*b": lambda a, b: a * b,
    "a//b": lambda a, b: a // b,
    "a%b": lambda a, b: a % b,
    "a**b": lambda a, b: a**b,
    "max(a,b)": max,
    "min(a,b)": min,
}
# Pairs on which all operations above give different results, so that one test tells them apart.
_TELLING_PAIRS = [(7, 2), (7, 3), (9, 2), (9, 4)]
_FOLDS: dict[str, tuple[str, Callable[[Sequence[int]], int]]] = {
    "sum": ("sum", sum),
    "largest": ("max", max),
    "smallest": ("min", min),
}


def _word(rng: Random) -> str:
    return rng.choice(_SYLLABLES) + rng.choice(_SYLLABLES)


def _numbers(rng: Random, count: int, low: int = 1, high: int = 60) -> list[int]:
    return [rng.randint(low, high) for _ in range(count)]


def arithmetic(rng: Random) -> Draft:
    """Fully specified: the expression stands in the statement."""
    factor, offset = rng.randint(2, 99), rng.randint(2, 99)
    left, right = rng.choice([("a", "b"), ("b", "a")])
    sign = rng.choice("+-")
    expression = f"{left}*{factor}{sign}{right}+{offset}"

    def run(a: int, b: int) -> int:
        x, y = (a, b) if left == "a" else (b, a)
        return x * factor + (y if sign == "+" else -y) + offset

    pairs = [(f"{a} {b}", str(run(a, b))) for a, b in (_numbers(rng, 2) for _ in range(4))]
    return Draft(
        statement=f"Read a and b. Print {expression}.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f"a,b=map(int,input().split())\nprint({expression})",
        guesses=(),
        key=expression,
    )


def constant(rng: Random) -> Draft:
    """A hidden constant, to be copied from an expected output."""
    secret, factor = rng.randint(10, 999), rng.randint(2, 9)
    pairs = [("0", str(secret))] + [(str(n), str(n * factor + secret)) for n in _numbers(rng, 3)]
    return Draft(
        statement=f"Read n. Print n*{factor} plus the secret number.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f"print(int(input())*{factor}+{secret})",
        guesses=(f"print(int(input())*{factor}+1)", f"print(int(input())*{factor})"),
        key=f"{secret}*{factor}",
    )


def greeting(rng: Random) -> Draft:
    """A hidden word, to be copied from an expected output."""
    secret = _word(rng)
    names = [_word(rng) for _ in range(4)]
    pairs = [(name, f"{secret} {name}") for name in names]
    return Draft(
        statement="Read a name. Greet it with the secret word.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f'print("{secret}",input())',
        guesses=('print("hi",input())', 'print("hello",input())'),
        key=secret,
    )


def operation(rng: Random) -> Draft:
    """A hidden operation, to be told from one example."""
    label, secret = _word(rng), rng.choice([op for op in _OPERATIONS if op != "a+b"])
    run = _OPERATIONS[secret]
    tests = [rng.choice(_TELLING_PAIRS), *((rng.randint(5, 30), rng.randint(2, 4)) for _ in range(4))]
    pairs = [(f"{a} {b}", f"{label} {run(a, b)}") for a, b in tests]

    def program(expression: str) -> str:
        return f'a,b=map(int,input().split())\nprint("{label}",{expression})'

    return Draft(
        statement=f"Read a and b. Print {label} and the secret operation of a and b.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=program(secret),
        guesses=(program("a+b"),),
        key=f"{label} {secret}",
    )


def separator(rng: Random) -> Draft:
    """An exception to repair: the numbers are not separated by blanks, as the ValueError shows."""
    mark, name, offset = rng.choice(_SEPARATORS), rng.choice(list(_FOLDS)), rng.randint(2, 99)
    call, fold = _FOLDS[name]
    lists = [_numbers(rng, 3) for _ in range(4)]
    pairs = [(mark.join(map(str, numbers)), str(fold(numbers) + offset)) for numbers in lists]

    def program(argument: str) -> str:
        return f"print({call}(map(int,input().split({argument})))+{offset})"

    return Draft(
        statement=f"Read numbers. Print the {name} plus {offset}.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=program(f'"{mark}"'),
        guesses=(program(""),),
        key=f"{mark} {name} {offset}",
    )


def literal(rng: Random) -> Draft:
    """An exception to repair: what is read is not a plain integer; the kind decides the repair."""
    factor, offset = rng.randint(2, 99), rng.randint(2, 99)
    kinds: dict[str, tuple[str, Callable[[int], str], Callable[[int], object]]] = {
        "decimal": ("float(input())", lambda n: f"{n}.5", lambda n: (n + 0.5) * factor + offset),
        "hexadecimal": ("int(input(),16)", hex, lambda n: n * factor + offset),
        "pair": (
            "sum(map(int,input().split()))",
            lambda n: f"{n} {n + 1}",
            lambda n: (2 * n + 1) * factor + offset,
        ),
    }
    kind = rng.choice(list(kinds))
    reader, write, run = kinds[kind]
    pairs = [(write(n), str(run(n))) for n in _numbers(rng, 4, 10, 99)]
    return Draft(
        statement=f"Read what is given. Print it times {factor} plus {offset}.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f"print({reader}*{factor}+{offset})",
        guesses=(f"print(int(input())*{factor}+{offset})",),
        key=f"{kind} {factor} {offset}",
    )


def layout(rng: Random) -> Draft:
    """A wrong output format: the mark between the words is only seen in an expected output."""
    label, mark, order = _word(rng), rng.choice(_SEPARATORS), rng.choice(["reverse", "sorted", "same"])
    count, arrange = rng.randint(3, 4), {"reverse": "[::-1]", "sorted": "", "same": ""}[order]
    words = "sorted(input().split())" if order == "sorted" else f"input().split(){arrange}"

    def run(items: list[str]) -> str:
        return mark.join({"reverse": items[::-1], "sorted": sorted(items), "same": items}[order])

    lists = [[_word(rng) for _ in range(count)] for _ in range(4)]
    pairs = [(" ".join(items), f"{label} {run(items)}") for items in lists]
    return Draft(
        statement=f"Read {count} words. Print {label} and them in {order} order.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f'print("{label}","{mark}".join({words}))',
        guesses=(f'print("{label}"," ".join({words}))',),
        key=f"{label} {mark} {order} {count}",
    )


def slow(rng: Random) -> Draft:
    """A too slow program: the loop of the statement must become a formula."""
    factor, offset, size = rng.randint(2, 99), rng.randint(2, 99), rng.choice([1, 2, 3]) * 10**8
    pairs = [(str(n), str(factor * n * (n - 1) // 2 + offset)) for n in (size, *_numbers(rng, 2), size + 1)]
    return Draft(
        statement=f"Read n. Print {offset} plus the sum of {factor}*i over all i below n.",
        public=tuple(pairs[:1]),
        private=tuple(pairs[1:]),
        solution=f"n=int(input())\nprint({factor}*n*(n-1)//2+{offset})",
        guesses=(f"n=int(input())\nprint(sum({factor}*i for i in range(n))+{offset})",),
        key=f"{factor} {offset}",
    )


FAMILIES: dict[str, tuple[Family, float]] = {
    "arithmetic": (arithmetic, 0.22),
    "constant": (constant, 0.15),
    "greeting": (greeting, 0.12),
    "operation": (operation, 0.12),
    "separator": (separator, 0.13),
    "literal": (literal, 0.10),
    "layout": (layout, 0.11),
    "slow": (slow, 0.05),
}
"""Every family with its share of the problems."""
