"""A test script of asserts -> a program that says what it saw, and what it should have seen.

`assert f(3) == 7` becomes `seen_[0] = f(3)` in the program and `{0: 7}` outside of it. So the expected value
is not in the program, and no object of the solution takes part in the comparison. An assert in a loop stays
in the program as a whole, seen to be true when it is so every time; `assert True` says nothing and goes.
"""

from __future__ import annotations

import ast
from typing import Any

from rlef_lightning.execution.literals import read_literal

FUNCTION = "observed_"
_HEAD = "\n\nseen_ = {}\n\n"
_TAIL = f"\n\ndef {FUNCTION}():\n    return seen_\n"


class _Observer(ast.NodeTransformer):
    """Replaces asserts by observations; `expected` is filled meanwhile."""

    def __init__(self, tree: ast.Module) -> None:
        self.expected: dict[int, Any] = {}
        self.inside = 0
        """Asserts whose comparison stays in the program."""
        self._scopes: list[dict[str, Any]] = [_literals(tree.body)]
        self._loops = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """A test function: names of literals in it are its own."""
        self._scopes.append(_literals(node.body))
        self.generic_visit(node)
        self._scopes.pop()
        return node

    def visit_For(self, node: ast.For) -> ast.For:
        """Its asserts are checked more than once."""
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """One observation."""
        if isinstance(node.test, ast.Constant) and node.test.value:
            return ast.Pass()
        number = len(self.expected)
        observed, self.expected[number] = (
            self._every_time(node.test) if self._loops else self._split(node.test)
        )
        target = ast.parse(f"seen_[{number}] = 0").body[0]
        assert isinstance(target, ast.Assign)
        target.value = observed
        return target

    def _every_time(self, test: ast.expr) -> tuple[ast.expr, Any]:
        """The test and what it said in the rounds before."""
        self.inside += 1
        before = ast.parse(f"seen_.get({len(self.expected)}, True)", mode="eval").body
        return ast.BoolOp(op=ast.And(), values=[before, _truth(test)]), True

    def _split(self, test: ast.expr) -> tuple[ast.expr, Any]:
        """What the program computes, and what that should be."""
        match test:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                found, value = self._value(right)
                if found:
                    return left, value
            case ast.UnaryOp(op=ast.Not(), operand=ast.Name() as operand):
                return _truth(operand), False
            case ast.Name():
                return _truth(test), True
        self.inside += 1
        return _truth(test), True

    def _value(self, node: ast.expr) -> tuple[bool, Any]:
        """(True, the value of a literal or of a name for one)."""
        if isinstance(node, ast.Name) and node.id in self._scopes[-1]:
            return True, self._scopes[-1][node.id]
        try:
            return True, read_literal(ast.unparse(node).replace("float('inf')", "inf"))
        except ValueError:
            return False, None


def _literals(body: list[ast.stmt]) -> dict[str, Any]:
    """Takes the assignments of literals to `expected` out of a body."""
    found: dict[str, Any] = {}
    for statement in list(body):
        match statement:
            case ast.Assign(targets=[ast.Name(id="expected" as name)], value=value):
                found[name] = read_literal(ast.unparse(value).replace("float('inf')", "inf"))
                body.remove(statement)
    return found


def _truth(node: ast.expr) -> ast.expr:
    return ast.Call(func=ast.Name(id="bool", ctx=ast.Load()), args=[node], keywords=[])


def observe(solution: str, tests: str) -> tuple[str, dict[int, Any], int]:
    """(program with the function FUNCTION, its expected value, asserts that are decided in the program)."""
    tree = ast.parse(tests)
    observer = _Observer(tree)
    script = ast.unparse(ast.fix_missing_locations(observer.visit(tree)))
    return f"{solution}{_HEAD}{script}{_TAIL}", observer.expected, observer.inside
