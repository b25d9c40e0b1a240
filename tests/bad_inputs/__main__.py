"""Try bad inputs at every door and print how many, and what went wrong: ``python -m bad_inputs --inputs 500``."""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from bad_inputs import trying


def main() -> int:
    """The number of faults, at most 1."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--inputs", type=int, default=50, help="at each door")
    reader.add_argument("--door", action="append", help="a part of a door's name; all by default")
    reader.add_argument("--seed", type=int, default=0, help="another seed is another set of inputs")
    given = reader.parse_args()
    warnings.simplefilter("ignore")
    tried = faults = doors = 0
    without: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for door in trying.doors(Path(folder)):
            if given.door and not any(part in door.name for part in given.door):
                continue
            start = time.perf_counter()
            inputs, faulty = trying.trial(door, given.inputs, given.seed)
            print(
                f"{inputs:5} inputs {len(faulty):4} faults {time.perf_counter() - start:7.1f} s  {door.name}",
                flush=True,
            )
            for fault in faulty:
                print("   ", str(fault).encode("ascii", "backslashreplace").decode())
            if (why := door.why_not()) is not None:
                without[door.name] = why
            doors, tried, faults = doors + 1, tried + inputs, faults + len(faulty)
    print(f"{len(without)} doors without a valid call, at which inputs end early:")
    for name, why in without.items():
        print("   ", f"{name}: {why}"[:160].encode("ascii", "backslashreplace").decode())
    print(f"{doors} doors, {tried} inputs, {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
