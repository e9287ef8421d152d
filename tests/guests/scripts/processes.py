"""subprocess: pipes both ways, exit codes, a signal; os.fork and os.waitpid."""

import os
import subprocess
import sys

child = "import sys; print(sum(map(int, sys.stdin)))"
done = subprocess.run(
    [sys.executable, "-c", child], input="1\n2\n39\n", capture_output=True, text=True, check=False
)
print(done.returncode, repr(done.stdout), repr(done.stderr))
with subprocess.Popen(["sort", "-r"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    print(process.communicate(b"a\nc\nb\n"))
print(subprocess.call(["bash", "-c", "exit 17"]))
with subprocess.Popen(["sleep", "100"]) as process:
    process.terminate()
    print(process.wait())
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    os._exit(21)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
