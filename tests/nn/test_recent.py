"""What was made for the last few losses is found again; what is older goes."""

from tvm_cavs.nn.recent import KEPT, Recent


def test_what_was_asked_for_longest_ago_goes() -> None:
    recent: Recent[int] = Recent()
    made: list[int | None] = []

    def ask(key: int | None) -> None:
        recent.get(key, lambda: made.append(key) or 0)  # type: ignore[func-returns-value]

    for key in (None, *range(KEPT - 1)):
        ask(key)
    ask(0)
    ask(KEPT)  # one too many: 1 has to go, None never
    assert len(recent) == KEPT
    made.clear()
    for key in (KEPT, 0, None, *range(2, KEPT - 1)):
        ask(key)
    assert made == []
    ask(1)
    assert made == [1]
