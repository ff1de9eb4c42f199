"""Compiled rules in a WebAssembly instance: OPA's documented ABI on wasmtime, bounded in time and memory.

Owns the engine, the clock that ends runaway rules, and the instance; the ABI is
https://www.openpolicyagent.org/docs/wasm, version 1.2 or later (`opa_eval`). It knows bytes in and
bytes out, not what they mean. wasmtime is imported here and nowhere else, at the first load: it is
the dearest import of a start. Its values are typed Any, because nearly all of its types are unions.
"""

import contextlib
import ctypes
import importlib
import logging
import weakref
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cld.errors import PolicyError
from cld.policy.builtins import BUILTINS
from cld.policy.cache import compiled_file, keep
from cld.policy.clock import TICK, Clock

logger = logging.getLogger(__name__)

_PAGE = 65536
_BUILTIN_ARITIES = range(5)


@cache
def _library() -> Any:
    import wasmtime  # noqa: PLC0415 - 30 ms or more, and only once there are rules to run

    return wasmtime


@cache
def _engine() -> tuple[Any, Clock]:
    config = _library().Config()
    config.epoch_interruption = True
    engine = _library().Engine(config)
    return engine, Clock(engine.increment_epoch)


def load_module(wasm: bytes, digest: str, cache: Path | None) -> Any:
    """The module of `wasm`, from the private cache where it was compiled before, else compiled now.

    Raises:
        PolicyError: it is no WebAssembly.
    """
    library, (engine, _) = _library(), _engine()
    file = compiled_file(cache, digest, Path(library.__file__)) if cache else None
    if file is not None and file.exists():
        with contextlib.suppress(library.WasmtimeError):
            return library.Module.deserialize_file(engine, str(file))
    try:
        module = library.Module(engine, wasm)
    except library.WasmtimeError as error:
        raise PolicyError(f"the compiled rules are no WebAssembly ({error}); run `cld policy build`") from error
    if file is not None:
        keep(file, module.serialize())
    return module


class Instance:
    """One instance of the rules with its data; `evaluate` is for one thread at a time.

    After a PolicyError from `evaluate` its memory may be in any state: close it and make another.
    """

    def __init__(self, module: Any, data: bytes, *, timeout_ms: int, memory_bytes: int) -> None:
        library, (engine, clock) = _library(), _engine()
        self._clock = clock
        self._ticks = max(2, round(timeout_ms / 1000 / TICK) + 1)
        self._timeout_ms = timeout_ms
        self._trap: str = ""
        self._builtins: dict[int, tuple[str, Callable[..., Any]]] = {}
        self._store = library.Store(engine)
        self._store.set_limits(memory_size=memory_bytes)
        try:
            with self._clock.running():
                self._store.set_epoch_deadline(self._ticks)
                self._start(module, data)
        except PolicyError:
            self.close()
            raise
        except (library.WasmtimeError, library.Trap, KeyError, msgspec.DecodeError) as error:
            reason = self._trap or _first_line(error)
            self.close()
            raise PolicyError(f"the compiled rules cannot be loaded: {reason}") from error

    def _start(self, module: Any, data: bytes) -> None:
        library, store = _library(), self._store
        self._memory = library.Memory(store, _memory_type(module))
        exports = self._linked(module).instantiate(store, module).exports(store)
        self._malloc, self._parse, self._dump = (
            exports[name] for name in ("opa_malloc", "opa_value_parse", "opa_value_dump")
        )
        if "opa_eval" not in list(exports):
            raise PolicyError("the compiled rules are from an OPA before 0.34; run `cld policy build`")
        self._builtins = _known(msgspec.json.decode(self._value(exports["builtins"](store))))
        self.entrypoints: Mapping[str, int] = msgspec.json.decode(self._value(exports["entrypoints"](store)))
        self._data = self._give(data)
        if self._data == 0:
            raise PolicyError("the rules' engine cannot read data.json")
        self._heap: int = exports["opa_heap_ptr_get"](store)
        self._call = _fast_call(store, exports["opa_eval"])
        self._reach = _fast_reach(store, self._memory)

    def evaluate(self, entrypoint: int, question: bytes) -> bytes:
        """The result set of an entrypoint for the input `question`, both as JSON.

        Raises:
            PolicyError: the rules trapped, ran out of time or memory; says which.
        """
        library, store, length = _library(), self._store, len(question)
        self._trap = ""
        try:
            with self._clock.running():
                self._reach.set_deadline(self._ticks)
                missing = self._heap + length - self._reach.size()
                if missing > 0:
                    self._memory.grow(store, missing // _PAGE + 2)
                (ctypes.c_char * length).from_address(self._reach.base() + self._heap).raw = question
                address = self._call(0, entrypoint, self._data, self._heap, length, self._heap + length, 0)
                return ctypes.string_at(self._reach.base() + address)
        except (library.WasmtimeError, library.Trap) as error:
            raise PolicyError(self._why(error)) from error

    def close(self) -> None:
        """Give the memory back now; wasmtime's own finalizers would come late, 1.3 MB each."""
        # It leads to what is gone then.
        self.__dict__.pop("_reach", None)
        self._store.close()

    def _base(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _text(self, address: int) -> bytes:
        return ctypes.string_at(self._base() + address)

    def _value(self, address: int) -> bytes:
        return self._text(self._dump(self._store, address))

    def _give(self, value: bytes) -> int:
        address = self._malloc(self._store, len(value))
        self._memory.write(self._store, value, address)
        return self._parse(self._store, address, len(value))

    def _linked(self, module: Any) -> Any:
        library, store = _library(), self._store
        i32 = library.ValType.i32()
        linker = library.Linker(_engine()[0])
        linker.define(store, "env", "memory", self._memory)
        # The callbacks live in a table of the process; a strong reference from there would keep
        # the instance for ever.
        me: weakref.ref[Instance] = weakref.ref(self)
        for count in _BUILTIN_ARITIES:
            linker.define(
                store, "env", f"opa_builtin{count}", library.Func(store, _signature(count), _builtin_caller(me))
            )
        for name, take in (("opa_abort", Instance._aborted), ("opa_println", Instance._printed)):
            callback = _text_taker(me, take)
            linker.define(store, "env", name, library.Func(store, library.FuncType([i32], []), callback))
        return linker

    def _aborted(self, text: str) -> None:
        self._trap = text
        raise _library().Trap(text)

    def _printed(self, text: str) -> None:
        # Never to stdout: that is the protocol of an MCP server.
        logger.info("rules print: %s", text)

    def _called(self, number: int, *addresses: int) -> int:
        name, function = self._builtins[number]
        arguments = [msgspec.json.decode(self._value(address)) for address in addresses]
        try:
            return self._give(msgspec.json.encode(function(*arguments)))
        except (TypeError, ValueError, OverflowError) as error:
            # OPA would make this undefined, and with it a deny that does not fire.
            self._trap = f"{name}: {error}"
            raise _library().Trap(self._trap) from error

    def _why(self, error: Exception) -> str:
        code = getattr(error, "trap_code", None)
        if code is not None and code.name == "INTERRUPT":
            return f"the rules took longer than {self._timeout_ms} ms and were stopped"
        if self._memory.data_len(self._store) and "unreachable" in str(error) and not self._trap:
            return "the rules ran out of memory, or into code that must not be reached"
        return f"the rules failed: {self._trap or _first_line(error)}"


def _memory_type(module: Any) -> Any:
    for needed in module.imports:
        if needed.module == "env" and needed.name == "memory":
            return needed.type
    raise PolicyError("the compiled rules are not from `opa build -t wasm`; run `cld policy build`")


def _signature(count: int) -> Any:
    library = _library()
    i32 = library.ValType.i32()
    return library.FuncType([i32] * (count + 2), [i32])


def _builtin_caller(me: "weakref.ref[Instance]") -> Callable[..., int]:
    def call(number: int, _context: int, *addresses: int) -> int:
        instance = me()
        assert instance is not None  # it is what is calling
        return instance._called(number, *addresses)  # pyright: ignore[reportPrivateUsage]

    return call


def _text_taker(me: "weakref.ref[Instance]", take: Callable[[Instance, str], None]) -> Callable[[int], None]:
    def call(address: int) -> None:
        instance = me()
        assert instance is not None  # it is what is calling
        take(instance, instance._text(address).decode("utf-8", "replace"))  # pyright: ignore[reportPrivateUsage]

    return call


def _known(needed: Mapping[str, int]) -> dict[int, tuple[str, Callable[..., Any]]]:
    """The host functions for the built-ins the rules use, by their numbers."""
    if unknown := sorted(set(needed) - set(BUILTINS)):
        raise PolicyError(
            f"the rules use {', '.join(unknown)}, which compiled rules do not have; cld adds only "
            f"{', '.join(sorted(BUILTINS))}. Use another built-in, or compare with input.context.time"
        )
    return {number: (name, BUILTINS[name]) for name, number in needed.items()}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


class _Reach(NamedTuple):
    """What is asked of an instance around every call, each in well under a microsecond of its own."""

    base: Callable[[], int]
    size: Callable[[], int]
    set_deadline: Callable[[int], None]


def _fast_reach(store: Any, memory: Any) -> _Reach:
    """The same functions of wasmtime, called without letting other threads run meanwhile.

    They take nanoseconds, and waiting for one's turn again takes up to a hundred times as long as a decision where
    other threads are writing. Not `opa_eval`: the clock has to be able to stop it.
    """
    try:
        return _reach_through_bindings(store, memory)
    except (ImportError, AttributeError, OSError):
        return _Reach(
            lambda: ctypes.addressof(memory.data_ptr(store).contents),
            lambda: memory.data_len(store),
            store.set_epoch_deadline,
        )


def _reach_through_bindings(store: Any, memory: Any) -> _Reach:
    ffi: Any = importlib.import_module("wasmtime._ffi")
    library = ctypes.PyDLL(ffi.dll._name)
    data, size, deadline = (
        getattr(library, name)
        for name in ("wasmtime_memory_data", "wasmtime_memory_data_size", "wasmtime_context_set_epoch_deadline")
    )
    data.restype, size.restype, deadline.restype = ctypes.c_void_p, ctypes.c_size_t, None
    deadline.argtypes = (ctypes.c_void_p, ctypes.c_uint64)
    context, target = ctypes.cast(store._context(), ctypes.c_void_p), ctypes.byref(memory._memory)
    return _Reach(partial(data, context, target), partial(size, context, target), partial(deadline, context))


def _fast_call(store: Any, function: Any) -> Callable[..., int]:
    """`function` of i32s to an i32 as a Python callable, without asking for its type on each call.

    `wasmtime.Func.__call__` does, which takes 55 of 75 µs of a decision. The bindings below it have no
    promised names; should a version of wasmtime not have them, the slow way is the same call.
    """
    try:
        return _through_bindings(store, function)
    except (ImportError, AttributeError):
        logger.warning("this version of wasmtime is not known; policy decisions take longer than they could")
        return partial(function, store)


def _through_bindings(store: Any, function: Any) -> Callable[..., int]:
    ffi: Any = importlib.import_module("wasmtime._ffi")
    enter_wasm: Any = importlib.import_module("wasmtime._func").enter_wasm

    count = 7
    parameters, results = (ffi.wasmtime_val_t * count)(), (ffi.wasmtime_val_t * 1)()
    for parameter in parameters:
        parameter.kind = ffi.WASMTIME_I32
    context, target, invoke = store._context(), ctypes.byref(function._func), ffi.wasmtime_func_call

    def call(*values: int) -> int:
        for index, value in enumerate(values):
            parameters[index].of.i32 = value
        with enter_wasm(store) as trap:
            error = invoke(context, target, parameters, count, results, 1, trap)
            if error:
                raise _library().WasmtimeError._from_ptr(error)
        return results[0].of.i32

    return call
