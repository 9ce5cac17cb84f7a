"""The parts of ``benchmarks/scale.py`` and ``benchmarks/paper.py``.

::

    entrants.py     who is compared, and how each is started
    two_hops.py     what users write by hand: a deployment that takes HTTP, and the model's behind it
    patience.py     Ray on a busy machine
    roles.py        the processes of a server by what they do, and what each has taken of the processor
    loops.py        the handler without a server, several processes at once: the limit
    idle.py         what a Ray cluster takes while nobody asks, by nodes and replicas; control_plane.py is its program
    results.py      what was measured, medians, targets, and what they say
    paper.py        a cluster on paper: from measured figures to that of many nodes
"""
