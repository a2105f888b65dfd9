"""`python tools/crash_at.py POINT COMMAND…`: a command of `parrot` that kills itself at a named instant."""

import sys

from reliability.crash_points import main

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
