"""What `tvm-cavs bench` was asked for -> cases, and what is printed of them, with times made up."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm")

from tvm_cavs.bench.names import OFF
from tvm_cavs.cli import bench_cases
from tvm_cavs.cli.bench_options import parse
from tvm_cavs.errors import CavsError

OWN = [SimpleNamespace(hidden=(8, 9), embedding=e, batch=(4, 5), name="w") for e in (None, 7)]


@pytest.mark.parametrize("workload", OWN)
def test_cases_against_a_loop(workload):
    """What is given comes before what the workload has; all else goes to every case."""
    hiddens, embeddings, batches = ("", "--hidden 2 3"), ("", "--embedding 6"), ("", "--batch 1")
    modes = "", "--mode infer train"
    rest = "--clock wall", "--clock wall --threads 3 --precision bf16 --overlap"
    for h, e, b, m, r in itertools.product(hiddens, embeddings, batches, modes, rest):
        given, expected = parse(f"{h} {e} {b} {m} {r}".split()), []
        for mode in ("infer", "train") if m else ("train",):
            for hidden in (2, 3) if h else (8, 9):
                for batch in (1,) if b else (4, 5):
                    wide = 6 if e else workload.embedding or hidden
                    expected.append((mode, hidden, wide, batch, *RESTS[r == rest[1]]))
        found = bench_cases.cases(given, workload)
        assert [
            (c.mode, c.hidden, c.embedding, c.batch, c.threads, c.precision, c.overlap)
            for c in found
        ] == expected


RESTS = (1, "float32", False), (3, "bf16", True)


@pytest.fixture
def made_up(monkeypatch):
    """Results that are their case; `asked`: with what each was made."""
    asked = []

    def result(_workload, case, rounds, *given):
        asked.append((case.hidden, rounds, given))
        return SimpleNamespace(rows=lambda: [{"hidden": case.hidden, "part": n} for n in (1, 2)])

    monkeypatch.setattr(bench_cases, "ablate", result)
    monkeypatch.setattr(bench_cases, "ablation_table", lambda found: f"a table of {len(found)}")
    monkeypatch.setattr(bench_cases, "WORKLOADS", {"treelstm": lambda data: OWN[0]})
    return asked


@pytest.mark.parametrize("clock", ["wall", "cpu"])
@pytest.mark.parametrize("chosen", ["", "fusion", "fusion gather"])
def test_what_a_clock_cannot_tell_is_said_where_it_was_not_left_out(made_up, clock, chosen, capsys):
    bench_cases.run(parse(f"--clock {clock} --rounds 3 --ablate {chosen}".split()))
    out, err = capsys.readouterr()
    switches = chosen.split() or [name for name in OFF if clock == "wall" or name != "overlap"]
    assert [(h, n, list(given[0])) for h, n, given in made_up] == [
        (hidden, 3, switches) for hidden in (8, 8, 9, 9)
    ]
    assert out == "a table of 4\n"
    unsaid = clock == "wall" or chosen
    assert err == ("" if unsaid else "not told by --clock cpu: overlap\n")


def test_rows_of_every_case_are_printed_when_it_is_done(made_up, capsys):
    bench_cases.run(parse("--clock wall --ablate --json --hidden 2 3 --batch 1".split()))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["hidden"], row["part"]) for row in rows] == [(2, 1), (2, 2), (3, 1), (3, 2)]


@pytest.mark.parametrize("asked", ["ablate", "peers torch"])
def test_a_picture_needs_what_its_extra_holds(made_up, asked, monkeypatch, tmp_path):
    """It is named, as is the file that cannot be written."""
    extra, save = ("bench", "save_comparison") if "peers" in asked else ("plot", "save_ablations")
    shut = SimpleNamespace(__enter__=lambda: None)
    held = type("Held", (), {"__enter__": lambda self: shut, "__exit__": lambda *_: None})
    monkeypatch.setattr(bench_cases, "Sgemm", lambda *_: held())
    monkeypatch.setattr(bench_cases, "Peers", lambda *_: held())
    monkeypatch.setattr(bench_cases, "compare", bench_cases.ablate)
    monkeypatch.setattr(bench_cases, "peer_table", lambda found: "a table")
    given = parse([*f"--clock wall --{asked} --plot".split(), str(tmp_path / "a.png")])
    monkeypatch.setattr(bench_cases, save, lambda *_: False)
    with pytest.raises(CavsError, match=rf"pip install 'tvm_cavs\[{extra}\]'"):
        bench_cases.run(given)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench_cases, save, full)
    with pytest.raises(
        CavsError, match=f"--plot {tmp_path}/a.png cannot be written: No space left"
    ):
        bench_cases.run(given)
    monkeypatch.setattr(bench_cases, save, lambda path, found: path == given.plot and found != [])
    bench_cases.run(given)


@pytest.mark.parametrize("rate", [None, 0.0, 0.5])
def test_a_rate_of_dropout_that_is_given_is_the_workloads(rate, monkeypatch):
    """0, too."""
    seen, usual = [], replace(bench_cases.WORKLOADS["treelstm"](None), dropout=0.25)
    monkeypatch.setattr(bench_cases, "WORKLOADS", {"treelstm": lambda data: usual})
    monkeypatch.setattr(bench_cases, "times", lambda given, workload: seen.append(workload))
    bench_cases.run(parse(["--clock", "wall", *(["--dropout", str(rate)] * (rate is not None))]))
    assert [each.dropout for each in seen] == [0.25 if rate is None else rate]


@pytest.mark.parametrize("asked", ["", "--peers torch", "--ablate fusion"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_results_are_a_table_or_a_line_each(asked, form, monkeypatch, capsys):
    """Every case in its turn, measured with what was asked for."""
    calls = []

    def result(workload, case, rounds, *_):
        calls.append((workload, case.hidden, rounds))
        row = {"hidden": case.hidden}
        return SimpleNamespace(row=lambda: row, rows=lambda: [row])

    held = type("Held", (), {"__enter__": lambda self: self, "__exit__": lambda *_: None})
    for name in ("measure", "compare", "ablate"):
        monkeypatch.setattr(bench_cases, name, result)
    for name in ("table", "peer_table", "ablation_table"):
        monkeypatch.setattr(bench_cases, name, lambda found: f"a table of {len(found)}")
    monkeypatch.setattr(bench_cases, "put_table", bench_cases.put)
    started = []
    for name in ("Sgemm", "Peers"):
        monkeypatch.setattr(bench_cases, name, lambda *given: (started.append(given), held())[1])
    monkeypatch.setattr(bench_cases, "WORKLOADS", {"treelstm": lambda data: OWN[0]})
    given = f"--clock wall --threads 5 --rounds 3 --batch 1 --hidden 2 3 {form} {asked}"
    bench_cases.run(parse(given.split()))
    rows = ['{"hidden": 2}', '{"hidden": 3}']
    assert capsys.readouterr().out.splitlines() == (rows if form else ["a table of 2"])
    assert calls == [(OWN[0], 2, 3), (OWN[0], 3, 3)]
    numpy, torch = (5, "wall"), (OWN[0].name, 5, "unlocked", "float32")
    assert started == {"": [numpy], "--peers torch": [numpy, torch]}.get(asked, [])


def test_a_profile_is_told_beside_the_results(monkeypatch, capsys, tmp_path):
    held = type("Held", (), {"__enter__": lambda s: s, "__exit__": lambda *_: None, "best": 7})
    monkeypatch.setattr(bench_cases, "Sgemm", lambda *given: held())
    rows = SimpleNamespace(row=lambda: {"n": 1})
    monkeypatch.setattr(bench_cases, "measure", lambda *given: rows)
    monkeypatch.setattr(bench_cases, "profile_case", lambda w, case, best: f"{case.hidden} {best}")
    monkeypatch.setattr(bench_cases, "to_json", lambda found: f"<{found}>")
    trace, given = tmp_path / "trace.json", "--clock wall --batch 1 --hidden 2 --json"
    for more in ("", "--profile", f"--profile --trace {trace}"):
        bench_cases.run(parse(f"{given} {more}".split()))
        out, err = capsys.readouterr()
        assert out == '{"n": 1}\n' and bool(err) == ("2 7\n" in err) == bool(more)
        assert not more or err.startswith("Case(hidden=2, embedding=2, batch=1, mode='train', ")
        assert trace.exists() == ("--trace" in more)
    assert trace.read_text() == "<2 7>"
