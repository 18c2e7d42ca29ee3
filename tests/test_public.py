"""The names of the package: there before they are loaded, and what is said where one cannot be."""

import pytest

import tvm_cavs as cavs


def test_names_are_listed_before_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cavs, "Trainer", raising=False)
    assert {"Trainer", "Graph", "data", "__version__"} <= set(dir(cavs))
    assert cavs.Trainer.__name__ == "Trainer"


@pytest.mark.parametrize(
    ("absent", "said"), [("safetensors", "train"), ("another", "^no another$")]
)
def test_only_the_package_that_a_deployed_model_lacks_has_a_remedy(
    absent: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError(f"no {absent}", name=absent)

    monkeypatch.delattr(cavs, "Trainer", raising=False)
    monkeypatch.setattr(cavs, "_import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=said) as error:
        _ = cavs.Trainer
    assert error.value.name == absent
