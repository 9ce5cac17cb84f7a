"""The server side: what runs under or around TorchServe's Java frontend, and a frontend without Java.

``control`` starts and stops a server, ``client`` talks to one, ``cli`` holds their commands; ``frontend`` is the one
without Java, ``worker`` is what a frontend starts for every worker, and ``protocol`` what the two say to each other.
``check`` and ``local`` run models without a server.
"""
