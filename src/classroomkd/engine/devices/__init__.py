"""Several processes that train one student, each with a device of its own.

Every process shows its part of a batch to the networks. What these say is exchanged, and every
process then makes the lesson of the whole batch: scores, gates, relations between samples and
memories are those of a training in one process, whatever the method. Gradients are averaged by
DistributedDataParallel; the learning mentors and the method's own parameters are in it, frozen
mentors are not. A student that is too large for a device is divided over them; see `sharding`.

What a network draws by itself in training, such as dropout, each process draws for its part: there
alone results depend on how many there are. On several machines, all need the same run folder and
bank, as on a shared disk.
"""

from classroomkd.engine.devices.context import SINGLE_PROCESS, DistContext
from classroomkd.engine.devices.launch import join, must_start, speaks, start

__all__ = ["SINGLE_PROCESS", "DistContext", "join", "must_start", "speaks", "start"]
