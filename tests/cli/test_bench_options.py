"""Arguments of `tvm-cavs bench`: which go together, at their borders and in pairs."""

import itertools

import pytest

from tvm_cavs.cli.bench_options import parse

ACCEPTED = [
    "",
    "--hidden 1 2 --embedding 1 --batch 1 64 --threads 1 --rounds 1",
    "--dropout 0",
    "--dropout 0.999",
    "--clock cpu --threads 1",
    "--clock wall --threads 2 --overlap",
    "--ablate",
    "--ablate --clock cpu",
    "--ablate overlap --clock wall",
    "--ablate --plot a.png",
    "--peers torch --plot a.png",
    "--peers torch --profile",
    "--profile --trace a.json",
]
REFUSED = [
    *(f"--{name} {n}" for name in ("hidden", "batch") for n in ("0", "4 0", "-1 4")),
    *(f"--{name} {n}" for name in ("embedding", "threads", "rounds") for n in (0, -1)),
    "--ablate fussion",
    "--ablate fusion gathre",
    "--dropout 1",
    "--dropout -0.1",
    "--clock cpu --threads 2",
    "--clock cpu --ablate overlap",
    "--ablate --plot missing/a.png",
    "--ablate --plot .",
    "--profile --trace missing/a.json",
]
FLAGS = {  # whether two of them go together, each alone being well
    "--overlap": {"--peers torch", "--profile", "--ablate", "--clock cpu"},
    "--peers torch": {"--overlap", "--ablate"},
    "--ablate": {"--overlap", "--peers torch"},
    "--profile": {"--overlap"},
    "--clock cpu": {"--overlap"},
    "--dropout 0.5": set(),
    "--json": set(),
}


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", ACCEPTED)
def test_what_goes_together(arguments):
    assert parse(["--clock", "wall", *arguments.split()])


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_does_not_is_refused_by_name(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--clock", "wall", *arguments.split()])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert any(word in said for word in arguments.split() if word.startswith("--"))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(FLAGS, 2)))
def test_pairs(one, other, capsys):
    for first, second in ((one, other), (other, one)):
        assert (second in FLAGS[first]) == (other in FLAGS[one]), "the table is symmetric"
        arguments = f"--clock wall {first} {second}".split()
        if second not in FLAGS[first]:
            assert parse(arguments)
            continue
        with pytest.raises(SystemExit):
            parse(arguments)
        said = capsys.readouterr().err.splitlines()[-1]
        assert first.split()[0].lstrip("-") in said and second.split()[0].lstrip("-") in said
