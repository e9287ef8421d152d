"""Four threads fed through a queue, a lock, an event and a pool."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

work: queue.Queue[int | None] = queue.Queue()
sums = [0] * 4
lock = threading.Lock()
ready = threading.Event()
total = 0


def consume(index: int) -> None:
    """Add up what the queue gives until it gives None."""
    global total
    ready.wait()
    while (number := work.get()) is not None:
        sums[index] += number
        with lock:
            total += number


threads = [threading.Thread(target=consume, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
ready.set()
for number in range(1000):
    work.put(number)
for _ in threads:
    work.put(None)
for thread in threads:
    thread.join()
print(sum(sums), total, threading.active_count())
with ThreadPoolExecutor(3) as pool:
    print(list(pool.map(lambda n: n**3, range(12))))
