"""The server side: what runs under or around TorchServe's Java frontend.

``control`` starts and stops a server, ``client`` talks to one, ``cli`` holds their commands; ``worker`` is what the
frontend starts for every worker, and ``protocol`` what the two say to each other. ``check`` and ``local`` run models
without a server.
"""
