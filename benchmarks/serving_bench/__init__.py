"""The parts of ``benchmarks/serving.py``.

::

    contenders.py   who is compared: the command that starts each, and its model-config.yaml
    workloads.py    what is asked of them: archives and request bodies
    servers.py      starts and ends a contender's server; its processes and their memory
    peers/          mosec and FastAPI: their environment, their programs, their start
    turns.py        a few contenders in turns: what frontend.py and pipeline.py share
    driver.py       sends the load: wrk, or the generator of `torchmar bench` where wrk is missing
    bare.py         the same handler without a server: the limit
    results.py      what was measured, and medians
    targets.py      what was aimed at
    report.py       Markdown, chart.py the same as SVG
"""
