"""Calls a service or an action of the graph from a plain rclpy program, many times, and counts.

    caller.py KIND NAME COUNT RATE [TIMEOUT]

KIND: Trigger, ExecuteInstruction, or a service of vla_ros that answers with a message. RATE: calls
a second, 0 for all at once. The last line that it prints is a JSON object: how many calls were
sent, answered and taken (success, or the goal ended with a result), the longest wait for an answer
[s], and what the answers said, with counts. It ends when all are answered or nothing has come for
TIMEOUT [s]. Its queue of answers is deep: every answer of the service passes it, whoever asked, and
of the usual ten places a busy machine loses some.
"""

import collections
import json
import sys
import time
from functools import partial

import rclpy
from rclpy.action import ActionClient
from std_srvs.srv import Trigger
from vla_ros import srv
from vla_ros.action import ExecuteInstruction

from vla_nodes.core import qos

# What makes each request different, where that is of interest.
TEXTS = {
    "SetInstruction": ("instruction", "pick block {}"),
    "Ask": ("question", "what is at place {}?"),
    "LoadAdapter": ("path", "/nowhere/{}"),
}


def main() -> None:
    """Calls, waits, prints."""
    kind, name, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    patience = float(sys.argv[5]) if len(sys.argv) > 5 else 10.0
    rclpy.init()
    node = rclpy.create_node("caller")
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    said: collections.Counter = collections.Counter()
    waits: list[float] = []
    counts = {"sent": 0, "taken": 0, "accepted": 0, "rejected": 0}
    last = time.monotonic()

    def note(sent_at: float, success: bool, text: str) -> None:
        nonlocal last
        last = time.monotonic()
        waits.append(last - sent_at)
        counts["taken"] += success
        said["".join(c for c in text if not c.isdigit())[:80]] += 1

    def send_call() -> None:
        sent_at = time.monotonic()

        def done(future) -> None:
            answer = future.result()
            note(sent_at, answer.success, answer.message)

        request = service.Request()
        if kind in TEXTS:
            field, text = TEXTS[kind]
            setattr(request, field, text.format(counts["sent"]))
        client.call_async(request).add_done_callback(done)

    def send_goal() -> None:
        sent_at = time.monotonic()

        def accepted(future) -> None:
            handle = future.result()
            if not handle.accepted:
                counts["rejected"] += 1
                note(sent_at, False, "rejected")
                return
            counts["accepted"] += 1
            handle.get_result_async().add_done_callback(ended)

        def ended(future) -> None:
            result = future.result()
            note(sent_at, result.status != 0, f"{result.status} {result.result.message}")

        goal = ExecuteInstruction.Goal(instruction=f"pick block {counts['sent']}")
        client.send_goal_async(goal).add_done_callback(accepted)

    if kind == "ExecuteInstruction":
        client, send = ActionClient(node, ExecuteInstruction, name, **qos.ACTION), send_goal
        knock = partial(client.send_goal_async, ExecuteInstruction.Goal())
        is_ready = client.server_is_ready
    else:
        service = Trigger if kind == "Trigger" else getattr(srv, kind)
        client, send = node.create_client(service, name, qos_profile=qos.SERVICE), send_call
        knock = partial(client.call_async, service.Request())
        is_ready = client.service_is_ready
    while not is_ready():
        executor.spin_once(timeout_sec=0.05)
    print("ready", flush=True)
    # A server knows its client later than the client knows its server, and drops its answers until
    # then: the first call, which does not count, is sent until it is answered (an empty goal is
    # rejected).
    answer = None
    while answer is None or not answer.done():
        answer = knock()
        executor.spin_until_future_complete(answer, timeout_sec=1.0)
    settled_at = time.monotonic() + 0.5
    while time.monotonic() < settled_at:
        executor.spin_once(timeout_sec=0.05)
    start = last = time.monotonic()
    while len(waits) < count and time.monotonic() - last < patience:
        while counts["sent"] < count and (
            rate == 0 or time.monotonic() - start >= counts["sent"] / rate
        ):
            send()
            counts["sent"] += 1
            last = time.monotonic()
        executor.spin_once(timeout_sec=0.005 if counts["sent"] < count else 0.05)
    waits.sort()
    summary = {
        "answered": len(waits),
        "seconds": round(last - start, 2),
        "median_wait": round(waits[len(waits) // 2], 4) if waits else None,
        "longest_wait": round(waits[-1], 4) if waits else None,
        "said": said.most_common(8),
    }
    print(json.dumps(counts | summary), flush=True)


if __name__ == "__main__":
    main()
