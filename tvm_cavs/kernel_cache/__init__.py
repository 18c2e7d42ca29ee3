"""Where compiled kernels are kept: whose folder it is, what it holds, how much it may hold.

Knows files only. What is in them belongs to the compiler.
"""

from .entries import Contents as Contents
from .entries import Entry as Entry
from .entries import Note as Note
from .entries import clear as clear
from .entries import contents as contents
from .entries import drop as drop
from .entries import libraries as libraries
from .entries import notes as notes
from .entries import read_note as read_note
from .entries import remove_leftovers as remove_leftovers
from .entries import trim as trim
from .entries import write as write
from .folder import above_standard as above_standard
from .folder import opened as opened
from .folder import scratch as scratch
from .place import Place as Place
from .place import choose as choose
from .place import default_folder as default_folder
from .place import named_folder as named_folder
from .place import size_limit as size_limit
