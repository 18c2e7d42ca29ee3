"""Where the time of a step goes."""

from .profiler import profile as profile
from .report import Profile as Profile
from .timeline import to_json as to_json
