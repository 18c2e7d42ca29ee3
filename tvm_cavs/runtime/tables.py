"""Columns and numbers of the tables that compiled loops read: the format that both sides share."""

from __future__ import annotations

# of a step: the first form and the one after the last, the same of its moves, its frame, the
# arguments in it; of a form: the rows from which it serves, function, object; of a move: the
# word of the frames that it sets, the column of the slice that it takes
STEP_COLUMNS, FORM_COLUMNS, MOVE_COLUMNS, WORDS = 6, 3, 2, 2
ZERO, LEVEL, COUNT, GROUP, SLICE_COLUMNS = range(5)  # columns of a slice; its first rows follow
EAGER, RECURRENT, LAZY = range(3)  # stages by number
NUMBER_OF_STAGE = {"eager": EAGER, "recurrent": RECURRENT, "lazy": LAZY}
