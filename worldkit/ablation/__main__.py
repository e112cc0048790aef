"""``python -m worldkit.ablation FOLDER``: one cell, in the process that `worldkit.ablation.run` starts for it."""

import sys

from .process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
