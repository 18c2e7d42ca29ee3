"""Every key of a config at the borders of what it takes, and keys that need each other."""

import pytest
from pydantic import ValidationError

from tvm_cavs.runs import schema
from tvm_cavs.runs.schema import RunConfig, Section

FILES = {"ptb": {"name": "ptb", "train": "a"}, "jsonl": {"name": "jsonl", "train": "a"}}
ONE = [0, -1, 0.5, 1]  # the last of them is the first that is taken
BORDERS = {  # section: {key: [refused ..., taken]}; a key of numbers takes no truth value either
    "ListOpsData": dict.fromkeys(["n_train", "n_dev", "n_test", "max_tokens"], ONE)
    | {"seed": [-1, 0]},
    "PtbData": dict.fromkeys(["n_classes", "min_count"], ONE),
    "JsonlData": dict.fromkeys(["n_classes", "min_count"], ONE),
    "ModelConfig": dict.fromkeys(["embedding", "hidden", "arity"], ONE)
    | {"dropout": [1, -0.01, 0]},
    "ScheduleConfig": {},
    "EarlyStopConfig": {"patience": ONE},
    "TrainConfig": dict.fromkeys(["batch_size", "vertex_budget", "epochs"], ONE)
    | {"warmup": [-1, 0], "seed": [-1, 0], "lr": [0, -1, 1e11, 1e10], "weight_decay": [-1, 0]}
    | {"clip_norm": [0, -1, 1e-9], "max_seconds": [0, 1e-9], "checkpoint_seconds": [0, 1e-9]},
    "ExecutorConfig": {"threads": [0, 1025, 1024]},
    "RpcConfig": {},
    "TuneConfig": {"batches": ONE, "budget": [0, "0s", "1x", "s", "0.5m"]}
    | {"candidate_seconds": [0, "-1s", "1h"]},
    "RunConfig": {},
}
SECTIONS = [s for s in vars(schema).values() if isinstance(s, type) and issubclass(s, Section)]
SECTIONS.remove(Section)


def made(section: type[Section], key: str, value: object) -> object:
    given = FILES.get(section.__name__.removesuffix("Data").lower(), {})
    return getattr(section.model_validate({**given, key: value}), key)


def test_the_table_has_every_section_and_every_number() -> None:
    assert {s.__name__ for s in SECTIONS} == set(BORDERS)
    for section in SECTIONS:
        for key, field in section.model_fields.items():
            is_number = "dict" not in str(field.annotation) and any(
                kind in str(field.annotation).replace("tuple", "") for kind in ("int", "float")
            )
            is_number &= "Config" not in str(field.annotation) and "Literal" not in str(
                field.annotation
            )
            assert is_number == (key in BORDERS[section.__name__]), (section, key)


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_at_their_borders(section: type[Section]) -> None:
    for key, (*refused, taken) in BORDERS[section.__name__].items():
        assert made(section, key, taken) is not None, key
        for value in [*refused, True, False, "x", [1], float("nan"), float("inf")]:
            with pytest.raises(ValidationError):
                made(section, key, value)


def test_times_have_units() -> None:
    texts = {"300s": 300.0, "0.5m": 30.0, "1.5h": 5400.0, "7": 7.0}
    for key in ("budget", "candidate_seconds"):
        assert [made(schema.TuneConfig, key, text) for text in texts] == [*texts.values()]


@pytest.mark.parametrize("section", SECTIONS)
def test_truth_values_are_no_numbers_and_no_texts(section: type[Section]) -> None:
    for key, field in section.model_fields.items():
        if "bool" not in str(field.annotation):
            continue
        for value in (True, False):
            assert made(section, key, value) is value
        for wrong in (0, 1, 1.0, "true", "yes", "on", "0"):
            with pytest.raises(ValidationError, match="expected true or false"):
                made(section, key, wrong)


def test_truth_values_are_no_numbers_by_name_either() -> None:
    for key in ("lr_mult", "decay_mult", "hyper"):
        assert made(schema.TrainConfig, key, {"eps": 1}) == {"eps": 1.0}
        with pytest.raises(ValidationError, match="expected no truth value"):
            made(schema.TrainConfig, key, {"eps": True})


@pytest.mark.parametrize("executor", ["tvm", "reference"])
@pytest.mark.parametrize("profile", [False, True])
def test_only_kernels_are_timed(executor: str, profile: bool) -> None:
    given = {"executor": {"name": executor}, "profile": profile}
    if profile and executor != "tvm":
        with pytest.raises(ValidationError, match="executor reference has no kernels to time"):
            RunConfig.model_validate(given)
        return
    assert RunConfig.model_validate(given).profile == profile


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("dev", [None, "b"])
@pytest.mark.parametrize("name", ["listops", "ptb", "jsonl"])
def test_patience_needs_a_dev_set(name: str, dev: str | None, patience: int | None) -> None:
    data = {"name": name} if name == "listops" else {**FILES[name], "dev": dev}
    given = {"data": data, "train": {"early_stop": {"patience": patience}}}
    if patience and dev is None and name != "listops":
        with pytest.raises(ValidationError, match="needs a dev set"):
            RunConfig.model_validate(given)
        return
    assert RunConfig.model_validate(given).train.early_stop.patience == patience


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("vertex_budget", [None, 9])
def test_batches_have_a_limit(batch_size: int | None, vertex_budget: int | None) -> None:
    given = {"train": {"batch_size": batch_size, "vertex_budget": vertex_budget}}
    if batch_size is None and vertex_budget is None:
        with pytest.raises(ValidationError, match=r"expected train\.batch_size"):
            RunConfig.model_validate(given)
        return
    assert RunConfig.model_validate(given).train.vertex_budget == vertex_budget


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": {"name": "step"}}, "every"),
        ({"schedule": {"name": "cosine"}}, "n_steps"),
        ({"batch_size": None}, r"expected train\.batch_size"),
    ],
)
def test_a_default_that_does_not_fit_what_is_given_is_refused(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        schema.TrainConfig.model_validate(given)


def test_a_default_follows_what_is_given() -> None:
    given = schema.TrainConfig.model_validate({"loss": "squared_error"})
    assert given.metrics[0] == given.early_stop.metric == "mse"


@pytest.mark.parametrize(
    ("given", "address", "key"),
    [
        ("h:1/K", ("h", 1), "K"),
        ("h:65535/K", ("h", 65535), "K"),
        ("K", ("127.0.0.1", 9190), "K"),
        ("[::1]:9190/K", ("::1", 9190), "K"),
        *((wrong, None, None) for wrong in ("h:0/K", "h:65536/K", "h/K", ":1/K", "h:x/K", "a b")),
    ],
)
def test_addresses(given: str, address: tuple[str, int] | None, key: str | None) -> None:
    if address is None:
        with pytest.raises(ValidationError):
            RunConfig.model_validate({"tune": {"rpc": given}})
        return
    found = RunConfig.model_validate({"tune": {"rpc": given}}).tune.rpc
    assert (found.address, found.key) == (address, key)
