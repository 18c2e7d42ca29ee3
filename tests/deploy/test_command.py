"""`tvm-cavs export`: from a run's folder to answers, for this machine and for others."""

import platform
import shutil

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from tvm_cavs.cli.main import main
from tvm_cavs.data import LISTOPS_VOCAB
from tvm_cavs.deploy import load
from tvm_cavs.errors import DeployError
from tvm_cavs.runs import build_data, build_network, load_config
from tvm_cavs.training import load_checkpoint, restore

pytestmark = pytest.mark.compiles
TINY = (
    "data.n_train=24 data.n_dev=6 data.n_test=4 data.max_tokens=30 model.embedding=6 "
    "model.hidden=8 train.batch_size=12 train.epochs=1 executor.threads=1 executor.records=none"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "demo", *TINY, f"folder={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def network(run):
    """The run's best network, in training's own process, and its dev graphs."""
    config = load_config(run / "config.yaml", [])
    net = build_network(config, LISTOPS_VOCAB)
    restore(net.parameters(), load_checkpoint(run / "best.safetensors"))
    return net, list(build_data(config, ["dev"]).splits["dev"])


def test_a_run_is_exported_and_answers(run, network, tmp_path, capsys):
    net, graphs = network
    out = tmp_path / "served" / "tiny"
    assert main(["export", str(run), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: best.safetensors of {run}, step ") and "load(" in told
    model = load(out)
    expected = net(cavs.batch(graphs))["logits"]
    np.testing.assert_array_equal(model(graphs)["logits"], expected)
    shown = model.read(model.manifest["example"])
    assert len(shown) == 3
    np.testing.assert_array_equal(model(shown[:1])["logits"], net(shown[0])["logits"])
    assert main(["export", str(run), "--out", str(out)]) == 1
    assert "is there already. To replace an exported model say so: --replace." in (
        capsys.readouterr().err
    )
    assert model.manifest["backward"] is False
    assert main(["export", str(run), "--out", str(out), "--replace", "--last", "--backward"]) == 0
    assert "last.safetensors" in capsys.readouterr().out
    again = load(out)
    outputs, pullback = again.vjp(graphs)
    assert again.manifest["backward"] is True
    assert pullback(outputs).keys() == net.parameters().keys()


def test_for_any_x86(run, network, tmp_path):
    """A target with less than this machine has: near, and the manifest asks for less."""
    net, graphs = network
    if platform.machine() != "x86_64":
        pytest.skip("another architecture")
    out = tmp_path / "plain"
    assert main(["export", str(run), "--out", str(out), "--target", "x86-64"]) == 0
    model = load(out)
    assert set(model.manifest["target"]["instructions"]) == {"sse", "sse2"}
    found, expected = model(graphs)["logits"], net(cavs.batch(graphs))["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_for_arm(run, tmp_path, capsys):
    """It is compiled and linked where there is a linker, and refused here."""
    if platform.machine() == "aarch64":
        pytest.skip("this is ARM")
    out = tmp_path / "arm"
    done = main(["export", str(run), "--out", str(out), "--target", "aarch64"])
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        assert done == 1 and "apt install gcc-aarch64-linux-gnu" in capsys.readouterr().err
        return
    assert done == 0
    machine = (out / "kernels.so").read_bytes()[18:20]  # of an ELF file
    assert int.from_bytes(machine, "little") == 183  # EM_AARCH64
    with pytest.raises(DeployError, match=f"aarch64, and this machine is {platform.machine()}"):
        load(out)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target", "{"], "is neither host, x86-64, x86-64-v3, x86-64-v4, aarch64 nor JSON"),
        (["--target", '{"kind": "llvm", "mcpu": "haswel"}'], "knows no CPU 'haswel'"),
        (["--target", '{"kind": "cuda"}'], "no schedule rules for a target of kind 'cuda'"),
        (["--linker", "no-such-compiler"], "linker: 'no-such-compiler' is no program here"),
        (["--linker", "false"], "kernels for x86_64: false could not link them: it ended with 1"),
        (["executor.precision=int3"], "executor.precision"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(run, more, words, tmp_path, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "out"), *more]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_none(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "last.safetensors does not exist" in capsys.readouterr().err
