"""Cells: what an RSSM remembers of a state, what was drawn in it, and an action. Importing this package registers the
built-in ones.

A module loads when its component is used. Your own may register with a decorator, ``@register_cell(NAME)``.
"""

from ..lazy import lazy_exports
from ..registry import list_cells, register_cell

register_cell("planet-gru", "worldkit.cells.gru:PlaNetGRU")
register_cell("gru", "worldkit.cells.gru:GRU")
register_cell("layernorm-gru", "worldkit.cells.gru:LayerNormGRU")
register_cell("block-gru", "worldkit.cells.block_gru:BlockGRU")
register_cell("lstm", "worldkit.cells.lstm:LSTM")
register_cell("transformer", "worldkit.cells.transformer:Transformer")

_BASE = ("Cell", "CellConfig")
__getattr__ = lazy_exports(__name__, {"base": _BASE})
__all__ = [*_BASE, "list_cells", "register_cell"]
