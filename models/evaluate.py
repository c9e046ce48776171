"""``python -m models.evaluate``: see :mod:`models.evaluation.command`."""

from __future__ import annotations

import sys

from models.extras import need_train_extra

if __name__ == "__main__":
    need_train_extra("python -m models.evaluate")
    from models.evaluation.command import main

    sys.exit(main())
