"""`python -m cld.cli`: the command line without an installed script."""

import sys

from cld.cli import main

if __name__ == "__main__":
    sys.exit(main())
