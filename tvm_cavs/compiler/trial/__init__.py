"""Trials of candidates: calls recorded in a step, run with any knobs -> their results and times.

`calls.py` holds what is recorded and where it runs, `touched.py` what calls write, `start.py` the
memory on which results are compared, `check.py` the comparison. `remote.py` runs calls on another
device, `tracker.py` finds one.
"""

from .calls import HERE as HERE
from .calls import Place as Place
from .calls import Recorded as Recorded
from .calls import Runnable as Runnable
from .calls import Slot as Slot
from .calls import recorded_of as recorded_of
from .check import Trial as Trial
from .check import Wrong as Wrong
from .check import peak as peak
from .remote import Libraries as Libraries
from .remote import Remote as Remote
from .tracker import NoServerError as NoServerError
from .tracker import Session as Session
from .tracker import Tracker as Tracker
from .tracker import no_server as no_server
from .tracker import session as session
