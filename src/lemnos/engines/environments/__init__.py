"""An environment of its own for each version of an engine: made, checked, listed, removed, carried.

``builds`` decides and ``bundling`` and ``sharing`` plan, without touching anything; ``targets``
reads machines, ``work`` makes an environment where it runs, ``installing`` and ``bundle`` call it.
"""
