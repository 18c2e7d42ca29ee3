"""`record()`: who records, and that nobody does where its `with` has not begun or was left."""

import threading
from contextvars import copy_context

import pytest

import tvm_cavs as cavs
from tvm_cavs.nn.recording import is_recording


def test_only_inside_and_in_this_thread() -> None:
    seen = []
    with cavs.record():
        thread = threading.Thread(target=lambda: seen.append(is_recording()))
        thread.start()
        thread.join()
        assert is_recording() and copy_context().run(is_recording)
        with cavs.record():
            assert is_recording()
        assert is_recording()
    assert seen == [False] and not is_recording()


def test_what_was_made_and_not_entered_records_nothing() -> None:
    """As where Ctrl-C comes between the two."""
    cavs.record()
    assert not is_recording()
    with cavs.record():
        cavs.record()
        assert is_recording()
    assert not is_recording()


def test_an_error_leaves_nobody_recording() -> None:
    kept = cavs.record()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), kept:
            assert is_recording()
            raise KeyboardInterrupt
        assert not is_recording()
