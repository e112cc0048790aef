"""``python -m worldkit.bench FOLDER``: one cell, in the process that `worldkit.bench.run` starts for it."""

import sys

from ..ablation.process import main
from .cell import do

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], do))
