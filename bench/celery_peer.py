"""Celery on a Redis: the application, with a task that does nothing, and as a program the one that counts.

celery_peer.py JOBS    with REDIS_URL set and a worker running; prints jobs a second from the first submission to the last result
"""

import os
import sys
import time

from celery import Celery, group

app = Celery("celery_peer", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.task_acks_late = True
app.conf.broker_connection_retry_on_startup = True


@app.task(name="chat")
def chat(_input):
    return None


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    chat.delay({}).get(timeout=60)
    started = time.perf_counter()
    group(chat.s({"messages": [{"role": "user", "content": "Say something."}]}) for _ in range(wanted)).apply_async().get(timeout=600)
    print(wanted / (time.perf_counter() - started))
