"""`python tools/watched.py FILE COMMAND…`: a command of `parrot` that is watched.

SIGUSR1 begins the watch, SIGUSR2 writes what was seen into FILE.
"""

import sys
from pathlib import Path

from reliability.watch import main

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
