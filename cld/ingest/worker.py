"""A converting process: takes orders on standard input, answers on standard output, one at a time.

Started by `cld.ingest.pool` only. It is where files by strangers meet parsers, so it gives up what it does not
need before the first: files it could write, memory without end, processor time without end. (It may
still read files and open sockets; nothing in the converters does so on a document's word.)
"""

import os
import resource
import sys
from typing import BinaryIO

import msgspec

from cld.ingest.convert import ConversionFailed, convert
from cld.ingest.messages import LENGTH_BYTES, Answer, Order, Refused


def main() -> None:
    memory = int(sys.argv[1])
    # The pipe is ours alone: whatever a library prints goes nowhere.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, 0)
    _bound(resource.RLIMIT_NOFILE, 64)
    if sys.platform == "linux":  # elsewhere it counts what is shared with everybody too, or is not kept
        _bound(resource.RLIMIT_AS, memory)
    decoder = msgspec.msgpack.Decoder(Order)
    while (data := _next(sys.stdin.buffer)) is not None:
        answer = msgspec.msgpack.encode(_answer(decoder.decode(data)))
        answers.write(len(answer).to_bytes(LENGTH_BYTES))
        answers.write(answer)
        answers.flush()


def _answer(order: Order) -> Answer:
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Ends this process even when the one that would stop it is dead.
    soft = int(used.ru_utime + used.ru_stime + 2 * order.seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    try:
        return convert(order)
    except ConversionFailed as failed:
        return Refused(str(failed))
    except RecursionError:
        return Refused("it nests too deep")
    except MemoryError:
        return Refused("it takes more memory than is allowed (ingest.memory_bytes)")
    except Exception as error:  # a task boundary: whatever a parser raises, the next file must come
        return Refused(f"it cannot be converted: {type(error).__name__}: {error}"[:500])


def _next(source: BinaryIO) -> bytes | None:
    length = source.read(LENGTH_BYTES)
    return source.read(int.from_bytes(length)) if len(length) == LENGTH_BYTES else None


def _bound(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()
