"""The parts of ``benchmarks/churn.py``.

::

    models.py         the models that come and go, their archives and the server's configuration
    rounds.py         a round, and what must hold in it
    watchdog.py       writes down where every thread of every process is, when an answer does not come
"""
