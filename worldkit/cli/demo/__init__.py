"""``worldkit demo``: from nothing to a trained world model and a report, on a CPU, without a download.

Makes Balls data (synthetic: three balls that bounce and collide), trains ``lpwm-balls-mini`` from scratch for a few
minutes as its preset says, and looks at what it predicts now and then (`looks`): ``report.html`` is there from the
start and gets better (`page`). At the end it is scored on clips it never saw, and `words` say what came of it.
"""

from .run import demo

__all__ = ["demo"]
