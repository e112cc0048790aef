"""`track` under its old name."""

from ..progress import track as track
