"""Readers and writers, one file per format of data; `worldkit.data` registers them."""
