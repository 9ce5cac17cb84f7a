"""The parts of ``benchmarks/soak.py``.

::

    models.py         the two models, their archives and the server's configuration; soak_handler.py is in both
    clients.py        keep the models busy and judge each answer
    processes.py      which process of the server is what, and what all of them take
    run.py            load, kills, scaling, and what must hold in between
    results.py        what held, and the report
"""
