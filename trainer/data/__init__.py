"""From files of raw rows to the batches of each optimizer step.

Read in this order: ``sources`` (raw rows and where they stand), ``tokenizing`` (rows to the token cache),
``cache`` (memory-mapped documents), ``packing`` (documents to rows of one length), ``rows`` (mixture and
packing as one indexable set), ``order`` (keyed permutations), ``batches`` (the resumable stream of optimizer
steps), ``sequential`` and ``streaming`` (the same stream for sources that are never read as a whole),
``loading`` (batches made here or by workers). For what users bring from Python: ``datasets`` (map-style),
``iterables`` and ``loaders``.

Nothing here imports torch or ``datasets`` before it is needed.
"""
