"""What the framework costs: each row of ``scripts/benchmark.py`` is a module here.

``measure`` has the paired runs and their statistics, ``processes`` starts what is measured, ``table`` shows
the results; what runs in processes of its own is in ``children``. Nothing here imports torch.
"""
