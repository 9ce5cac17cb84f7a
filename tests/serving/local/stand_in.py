"""A trial without torch: the settings of its folder say how fast it is, and what fails."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

stream = socket.socket(fileno=int(sys.argv[1])).makefile("rw")
section, facts = "", {}
for line in stream:
    question = json.loads(line)
    do = question["do"]
    answer = {}
    if do == "load":
        section = Path(question["folder"], "model-config.yaml").read_text()
        facts = json.loads(Path(question["folder"], "facts.json").read_text())
        if "float16" in section and "bfloat16" not in section:
            answer = {"error": "it does not load"}
        if "channels_last" in section:
            print("last words", flush=True)
            os._exit(3)
        if "freezing" in section:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pids = Path(question["folder"], "..", "pids.txt")
            pids.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}\n")
            pids.with_suffix(".part").replace(pids)
            time.sleep(600)
    elif do == "facts":
        answer = facts
    elif do == "answer":
        answer = {"refused": "in0: status 400"} if facts.get("refuses") else {}
    elif do == "outputs":
        Path(question["file"]).touch()
    elif do == "measure":
        fast = facts.get("request", 0.001) * (0.5 if "bfloat16" in section else 1.0)
        time.sleep(facts.get("takes", 0))
        answer = {"seconds": [fast * question["batch"]] * 3}
    elif do == "compare":
        assert Path(question["file"]).exists()
        answer = {"difference": 0.01, "agreement": 1.0}
    elif do == "state":
        answer = {"serving": "plain" if facts.get("falls_back") else "bfloat16", "warnings": facts.get("warnings", [])}
    elif do == "save":
        Path(question["file"]).write_text("compiled")
        answer = {"record": {"file": "any.bin", "madeFor": {"torch": "2"}}}
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
