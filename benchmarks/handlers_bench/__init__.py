"""The parts of ``benchmarks/handlers.py``; servers, load and tables are those of ``serving_bench``.

::

    assets.py       weights and photographs from published packages; images made of the photographs
    contenders.py   who is compared: TorchServe's handler, and ours in several optimizations
    workloads.py    what is asked of them: archives of two networks
    loop.py         an archive's handler without a server: the limit, and where its time goes
    results.py      what was measured, and what was aimed at
    report.py       Markdown
"""
