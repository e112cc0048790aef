"""What lies on disk and on the hub: model folders, loading and sharing them, model cards.

A model's class is found by the name of its family (`worldkit.registry.models`) and builds itself from its config, so
nothing here knows how models are assembled.
"""
