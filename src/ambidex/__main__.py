"""``python -m ambidex``: the command ``ambidex`` where its script is not on the path; the interpreter runs this.

The invariant: it does what the script does.
"""

import sys

from ambidex.cli import main

if __name__ == "__main__":
    sys.exit(main())
