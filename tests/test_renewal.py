"""What has to be made anew in a forked process is, there only, as long as it is there."""

import gc
import os

import pytest

from tvm_cavs.renewal import renewed_after_fork


class Owner:
    renewed = 0

    def renew(self) -> None:
        self.renewed += 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_renews_what_is_still_there() -> None:
    owners = [Owner() for _ in range(3)]
    for owner in owners:
        renewed_after_fork(owner, Owner.renew)
    del owner, owners[1]
    gc.collect()
    child = os.fork()
    if not child:
        os._exit(sum(each.renewed for each in owners))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert [each.renewed for each in owners] == [0, 0]
