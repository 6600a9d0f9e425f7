"""Each of the fake's commands: asks the server, and prints what it says."""

import json
import os
import socket
import sys

directory, program, *argv = sys.argv[1:]
cwd = os.getcwd()
os.chdir(directory)  # a socket's path has 107 characters at most
channel = socket.socket(socket.AF_UNIX)
try:
    channel.connect("socket")
except OSError as error:
    said = f"{program}: cannot connect to server login (errno={error.errno})"
    sys.stderr.write(f"Connection refused\n{said}\n")
    sys.exit(255 if program in ("qstat", "pbsnodes") else 111)
os.chdir(cwd)
stdin = ""
if program == "qsub" and "--" not in argv and (not argv or argv[-1] == "-"):
    stdin = sys.stdin.read()
request = {"program": program, "argv": argv, "cwd": cwd, "env": dict(os.environ)}
channel.sendall(json.dumps({**request, "stdin": stdin}).encode() + b"\n")
with channel.makefile("r", encoding="utf-8", errors="surrogateescape") as answer:
    said = json.loads(answer.readline())
sys.stdout.write(said["out"])
sys.stderr.write(said["err"])
sys.exit(said["code"])
