"""Records that `tvm-cavs tune` wrote -> a file of autotune/records: what choosing needs of them.

    python scripts/ship_records.py autotune/records/zen3.json FILE...

Files are merged, with what is shipped under that name already; failed and slower candidates are
left out. Regions belong to one network, and stay out too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from schedules.records import merged, pruned, read_records, write_records


def main(arguments: list[str]) -> int:
    """Write the file; 1 where a record could not be read."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    to, *given = map(Path, arguments)
    several, notes = [], []
    for path in [to, *given]:
        found, problems = read_records(path)
        several.append([record for record in found if not record.kernel.startswith("region")])
        notes += problems
    for note in notes:
        print(note, file=sys.stderr)
    if notes:
        return 1
    kept = pruned(merged(*several))
    write_records(to, kept)
    print(f"{to}: {len(kept)} of {sum(map(len, several))} records")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
