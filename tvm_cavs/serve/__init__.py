"""An exported model behind HTTP: requests -> batches -> answers.

Whoever asks at the same time is answered by the same kernel calls. `tvm-cavs serve` is the command;
it needs the packages of the extra `serve`.
"""

from .app import make_app as make_app
from .limits import Limits as Limits
from .metrics import Metrics as Metrics
from .service import BATCHING as BATCHING
from .service import Service as Service
from .sockets import Address as Address
from .start import run as run
