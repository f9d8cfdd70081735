"""The bank: mentor outputs that are computed once, and stored by view and sample."""

from classroomkd.mentors.bank.encoding import (
    Encoded,
    bytes_per_sample,
    check_range,
    decode,
    decode_outputs,
    encode,
    encode_outputs,
    rows,
)
from classroomkd.mentors.bank.guard import folder_size
from classroomkd.mentors.bank.keys import differences, mentor_key, view_key
from classroomkd.mentors.bank.mentor_store import MentorStore, Stored, ViewWriter
from classroomkd.mentors.bank.shards import (
    DamagedShardError,
    Shard,
    merge,
    read_shard,
    size_text,
    write_shard,
)
from classroomkd.mentors.bank.store import Bank

__all__ = [
    "Bank",
    "DamagedShardError",
    "Encoded",
    "Shard",
    "MentorStore",
    "Stored",
    "ViewWriter",
    "bytes_per_sample",
    "check_range",
    "decode",
    "decode_outputs",
    "differences",
    "encode",
    "encode_outputs",
    "folder_size",
    "mentor_key",
    "merge",
    "read_shard",
    "rows",
    "size_text",
    "view_key",
    "write_shard",
]
