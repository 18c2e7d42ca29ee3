"""Any config: keys and values that are right, nearly right or absurd."""

from typing import Any

import yaml
from hypothesis import strategies as st
from pydantic import BaseModel

from tvm_cavs.nn.cells import CELLS
from tvm_cavs.nn.loss import LOSSES
from tvm_cavs.runs.config import DATA
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.training.lr_schedules import SCHEDULES
from tvm_cavs.training.optim import OPTIMIZERS


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The full name of every key and section."""
    found = []
    for name, info in model.model_fields.items():
        found.append(prefix + name)
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += leaves(inner, f"{prefix}{name}.")
    return found


KEYS = sorted(set(leaves(RunConfig)) | {k for m in DATA.values() for k in leaves(m, "data.")})
WORDS = [*DATA, *CELLS, *OPTIMIZERS, *SCHEDULES, "tvm", "reference", "accuracy", "mse", "~/x", "x"]
WORDS += ["momentum", "eps", "beta1", "n_steps", "every", "floor", "E", "softmax_cross_entropy"]
numbers = st.sampled_from([0, 1, 2, -1, 0.5, 1e-3, 1e39, 10**30, float("nan"), float("inf")])
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.sampled_from(WORDS), st.text(max_size=4), st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | scalars, inner, max_size=3)
    ),
    max_leaves=4,
)
keys = st.sampled_from(KEYS) | st.text(max_size=6) | st.sampled_from(["trian.lr", "a..b", "."])
# What is taken, or nearly: the ends of what a key can be, and keys that belong together.
NEAR = [0, 1, 2, 30, 10**9, 0.5, 1e-3, 1e-45, 1 - 1e-9, 3e38]
LIKELY = [
    (f"train.{key}", v) for key in ("lr", "weight_decay", "warmup", "clip_norm") for v in NEAR
]
LIKELY += [
    ("train", {"optimizer": name, "hyper": {key: v}, "lr": lr})
    for name, row in OPTIMIZERS.items()
    for key in row.extra
    for v in NEAR
    for lr in (0.5, 3e38)
]
LIKELY += [
    ("train.schedule", {"name": name, "settings": dict.fromkeys(given, v)})
    for name, *given in [("step", "every"), ("step", "every", "factor"), ("warmup", "n_steps")]
    + [("cosine", "n_steps"), ("cosine", "n_steps", "floor"), ("constant",)]
    for v in NEAR
]
LIKELY += [("data", {"name": "listops", key: v}) for key in ("n_train", "seed") for v in NEAR]
LIKELY += [("data", {"name": name, "train": "x"}) for name in DATA if name != "listops"] * 8
LIKELY += [("train.loss", name) for name in LOSSES] + [("folder", "~/x"), ("executor.threads", 1)]
likely = st.one_of([st.sampled_from(LIKELY)] * 5)
assignments = st.lists(st.one_of(likely, likely, st.tuples(keys, values)), max_size=2)
raw = st.text("{}[]:,&*!|>-#'\"%@ \n\tab1.e~?<\\0é\u2028", max_size=20)


def text_of(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).strip()
