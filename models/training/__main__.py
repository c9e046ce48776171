"""``python -m models.training``: see :mod:`models.training.command`."""

from __future__ import annotations

from models.extras import need_train_extra

if __name__ == "__main__":
    need_train_extra("python -m models.training")
    from models.training.command import main

    main()
