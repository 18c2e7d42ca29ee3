"""Programs: what is checked of every one, and what of them is kept, used and bounded."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tvm_cavs as cavs
from helpers.functions import FUNCTIONS
from tvm_cavs.errors import ShapeError, TraceError
from tvm_cavs.language.ops import EFFECTS
from tvm_cavs.language.program import Builder, Call, Program, bounds, keep, user_line, without_dead
from tvm_cavs.language.value import Type
from tvm_cavs.language.vertex import call, trace

SOME = ("tree_rnn", "passed", "each_stage", "random_0")


def programs() -> Iterator[Program]:
    for name in SOME:
        make, loss = FUNCTIONS[name]
        both = cavs.Network(make()).programs(loss)
        yield from (both.forward, both.adjoint)


def spoilt(program: Program) -> Iterator[tuple[str, tuple[Call, ...]]]:
    """What is wrong, and the calls with one thing changed, at every call where it can be."""
    calls = program.calls
    effect = next(i for i, c in enumerate(calls) if c.op in EFFECTS)
    for i, c in enumerate(calls):
        before, after = calls[:i], calls[i + 1 :]
        for k in range(len(c.args)):
            for wrong in (i, len(calls), -1, *([effect] if effect < i else [])):
                args = (*c.args[:k], wrong, *c.args[k + 1 :])
                bad = replace(c, args=args)
                said = f"%{i} = {bad.text()} uses a value that is not computed before it"
                yield said, (*before, bad, *after)
        if c.op not in EFFECTS and "type" not in dict(c.attrs):
            for t in (
                replace(c.type, shape=(*c.type.shape, 1)),
                replace(c.type, per="net" if c.type.per == "vertex" else "vertex"),
                replace(c.type, dtype="int32" if c.type.dtype == "float32" else "float32"),
            ):
                bad = replace(c, type=t)
                yield f"%{i} = {bad.text()} should have type {c.type}", (*before, bad, *after)
        if c.op in ("scatter", "push", "save"):
            where = c.where or f"%{len(calls)}"
            said = f"{c.text()} writes a second time ({where}); expected each field, output"
            yield said, (*calls, c)
        said = f"call %{i} has the unknown op '{c.op}!'"
        yield said, (*before, replace(c, op=f"{c.op}!"), *after)


WRONG = {"not computed before it", "should have type", "writes a second time", "the unknown op"}


def test_whatever_is_wrong_with_a_program_is_refused() -> None:
    for program in (p for k, p in enumerate(programs()) if k in (2, 3)):
        assert Program(program.name, program.calls) == program
        seen = set()
        for said, calls in spoilt(program):
            with pytest.raises(TraceError) as error:
                Program("spoilt", calls)
            assert str(error.value).startswith(f"spoilt: {said}")
            seen |= {what for what in WRONG if what in said}
        assert seen == WRONG


@pytest.mark.parametrize("op", ["scatter", "push", "save"])
def test_nothing_is_written_a_second_time(op: str) -> None:
    """Whatever writes: a training pass saves what its adjoint reads."""
    program = next(p for p in programs() if any(p.select("push")))
    value, computed = next((i, c) for i, c in enumerate(program.calls) if c.op not in EFFECTS)
    saves = Call("save", (value,), (("name", str(value)),), computed.type)
    program = Program("saving", (*program.calls, saves))
    _, write = next(iter(program.select(op)))
    for where in ("there, line 7", ""):
        with pytest.raises(TraceError) as error:
            Program("spoilt", (*program.calls, replace(write, where=where)))
        at = where or f"%{len(program.calls)}"
        assert f"spoilt: {write.text()} writes a second time ({at}); " in str(error.value)


def needed(program: Program, i: int) -> set[int]:
    """The calls that %i is made of, itself too."""
    return {i}.union(*(needed(program, a) for a in program.calls[i].args), set())


def test_uses_are_the_arguments_seen_from_the_other_end() -> None:
    for program in programs():
        pairs = {(a, i) for i, c in enumerate(program.calls) for a in c.args}
        uses = program.uses()
        assert {(a, i) for a, users in enumerate(uses) for i in users} == pairs
        assert sum(map(len, uses)) == len(pairs), "a call that uses a value twice is one user"
        for op in {c.op for c in program.calls}:
            found = list(program.select(op))
            assert found == [(i, c) for i, c in enumerate(program.calls) if c.op == op]


def test_what_no_write_needs_is_dead() -> None:
    for program in programs():
        first = keep(program, needed(program, next(i for i, c in program.select("gather", "pull"))))
        assert without_dead(first).calls == () and first.name == program.name
        effects = [i for i, c in enumerate(program.calls) if c.op in EFFECTS]
        live = set().union(*(needed(program, i) for i in effects[::2]))
        some = keep(program, live)
        assert some.name == program.name
        assert [c.op for c in some.calls] == [program.calls[i].op for i in sorted(live)]
        assert without_dead(some) == some
        with_more = keep(program, live | set(range(min(effects))))
        assert without_dead(with_more).calls == some.calls


def test_equal_reads_are_one_call_and_with_sharing_all_equal_calls() -> None:
    for shared in (False, True):
        b = Builder("F", shared=shared)
        x, again = (b.call("pull", name="x", type=Type((3,))) for _ in range(2))
        other = b.call("pull", name="y", type=Type((3,)))
        assert x.index == again.index != other.index
        y, z = b.call("tanh", x), b.call("tanh", again)
        assert (y.index == z.index) is shared
        zero, minus = b.call("full", value=0.0, shape=()), b.call("full", value=-0.0, shape=())
        assert zero.index != minus.index
        for value in (y, y):
            b.call("gradient", value, name="W")
        assert len(list(b.finish().select("gradient"))) == 2


def test_a_program_stays_what_it_was_when_its_builder_goes_on() -> None:
    b = Builder("F")
    x = b.call("pull", name="x", type=Type((3,)))
    first, text = b.finish(), str(b.finish())
    b.call("push", x, name="y")
    assert str(first) == text != str(b.finish())


def test_bounds_are_of_the_smallest_that_an_input_chooses_from() -> None:
    class F(cavs.VertexFunction):
        state = {"h": 2}

        def __init__(self) -> None:
            self.E, self.D = cavs.Parameter((9, 2)), cavs.Parameter((5, 2))

        def forward(self, v: Any) -> None:
            word, tag = v.pull("word"), v.pull("tag")
            h = cavs.embedding(word, self.E) + cavs.embedding(word, self.D)
            v.scatter(h=h)
            many = cavs.concat(cavs.reshape(tag, 1), cavs.reshape(v.pull("kind"), 1))
            v.push("one", cavs.one_hot(call("reshape", many[1:], shape=()), 4))
            v.push("picked", cavs.pick(v.pull("x", 7), tag))
            v.push("unbounded", cavs.equal(v.pull("free"), tag))

    # what is cut from integers that were joined may be any of them
    assert bounds(trace(F())) == {"word": 5, "tag": 4, "kind": 4}


@pytest.mark.parametrize(("n", "fits"), [(3, True), (4, True), (5, False)])
def test_an_argmax_may_have_as_many_elements_as_there_are_to_choose_from(
    n: int, fits: bool
) -> None:
    class F(cavs.VertexFunction):
        state = {"h": 4}

        def forward(self, v: Any) -> None:
            best = cavs.argmax(v.pull("x", n))
            v.scatter(h=cavs.one_hot(best, 4))

    if fits:
        trace(F())
    else:
        with pytest.raises(ShapeError) as error:
            trace(F())
        line = inspect.getsourcelines(F.forward)[1] + 2
        assert str(error.value) == (
            f"in F, one_hot (test_program.py, line {line}: v.scatter(h=cavs.one_hot(best, 4))): "
            "the index is an argmax of 5 elements, but there are 4 to choose from; "
            "take the argmax of 4 at most"
        )


@pytest.mark.parametrize("shared", [False, True])
def test_a_call_says_where_it_was_written(shared: bool) -> None:
    """What the package writes by itself was written nowhere."""
    b = Builder("F", shared)
    x = b.call("pull", name="x", type=Type((3,)))
    b.call("push", b.call("tanh", x, where="there"), name="y")
    pull, tanh, push = (c.where for c in b.finish().calls)
    assert tanh == "there"
    for where, text in ((pull, "x = b.call("), (push, 'b.call("push", b.call(')):
        assert where == "" if shared else told_line(where, __file__).startswith(text)


def told_line(told: str, file: str) -> str:
    """The line that a text tells of, which is the one of that number in the file."""
    found = re.search(r"(\w+\.py), line (\d+): (.*)", told)
    assert found and found[1] == Path(file).name
    line = Path(file).read_text(encoding="utf-8").splitlines()[int(found[2]) - 1].strip()
    assert found[3].startswith(line)
    return line


def test_a_line_in_a_cell_or_a_loss_is_a_users_line() -> None:
    cell = cavs.nn.TreeRNN(5, 3, 4, 2)
    cell.state = {"h": 7}
    with pytest.raises(ShapeError, match=r"^in TreeRNN, matmul \(cells.py, line") as error:
        trace(cell)
    assert told_line(str(error.value), inspect.getfile(cavs.nn.TreeRNN)).startswith("h = ")
    loss = cavs.loss.SoftmaxCrossEntropy("h")
    with pytest.raises(TraceError, match=r"SoftmaxCrossEntropy, output \(loss.py, ") as refused:
        trace(cavs.nn.TreeRNN(5, 3, 4, 2), loss)
    assert told_line(str(refused.value), inspect.getfile(type(loss))).startswith("logits")
    assert told_line(user_line(), __file__).startswith("assert told_line(user_line()")


def test_a_refusal_names_the_operands_that_its_rule_does_not() -> None:
    b = Builder("F")
    types = {"x": Type((3,)), "i": Type((), "int32")}
    x, i = (b.call("pull", name=name, type=t) for name, t in types.items())
    for op, args, attrs, said in (
        (
            "one_hot",
            (i,),
            {"depth": -7},
            "one_hot has at least one element, given depth -7 (operands int32)",
        ),
        ("add", (x, i), {}, "expected float32 operands, given float32[3] and int32"),
    ):
        with pytest.raises(ShapeError) as error:
            b.call(op, *args, **attrs)
        assert re.match(rf"in F, {op} \(test_program.py, line \d+: b.call", str(error.value))
        assert told_line(str(error.value), __file__) == "b.call(op, *args, **attrs)"
        assert str(error.value).endswith(f": {said}")
    assert len(b.finish().calls) == 2


def test_an_axis_below_zero_counts_from_the_last() -> None:
    b = Builder("F")
    x = b.call("pull", name="x", type=Type((2, 3)))
    for axis, shape in ((-1, (2, 6)), (-2, (4, 3)), (0, (4, 3)), (1, (2, 6))):
        made = b.call("concat", x, x, axis=axis)
        assert made.shape == shape and b.calls[made.index]["axis"] == axis % 2


def test_a_rule_may_answer_in_place_of_a_call() -> None:
    seen: list[tuple[Any, ...]] = []

    def rule(b: Builder, op: str, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        seen.append((op, [a.index for a in args], attrs))
        return args[0] if op == "neg" else None

    b = Builder("F", rule=rule)
    x = b.call("pull", name="x", type=Type((3,)))
    assert b.call("neg", x).index == x.index != b.call("tanh", x).index
    assert [c.op for c in b.finish().calls] == ["pull", "tanh"]
    told = [("pull", [], {"name": "x", "type": Type((3,))}), ("neg", [0], {}), ("tanh", [0], {})]
    assert seen == told


def test_a_program_prints_a_line_a_call_with_short_numbers() -> None:
    b = Builder("F")
    x = b.call("pull", name="x", type=Type((3,)))
    b.call("push", x * 0.1234567891, name="y")
    assert str(b.finish()).splitlines() == [
        "program F",
        "  %0 = pull(name=x) : float32[3]",
        "  %1 = full(shape=(), value=0.123457) : float32 per net",
        "  %2 = mul(%0, %1) : float32[3]",
        "  push(%2, name=y) : float32[3]",
    ]
