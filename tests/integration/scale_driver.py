"""Maps numbers over a Ray cluster with a journal, in a process of its own that may be killed."""

import sys
import time

from agentprm.budget import record
from agentprm.scale import Journal, RayExecutor, map_items


class Squares:
    """Factory of workers that write down what they have done."""

    def __init__(self, done, seconds):
        self.done, self.seconds = done, seconds

    def __call__(self):
        return self.work

    def work(self, item):
        time.sleep(self.seconds)
        with open(self.done, "a", encoding="utf-8") as file:
            file.write(f"{item}\n")
        record(model_calls=1, prompt_tokens=item)
        return {"item": item, "square": item * item}


def main(address, path, done, count):
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    with Journal(path) as journal:
        map_items(Squares(done, 0.1), range(int(count)), journal, executor=RayExecutor(workers=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
