"""One source for synchronous and asynchronous callers; every store class is built with this module.

The invariant: a method marked here is written once as ``async def``. On an ordinary instance it is that coroutine
function, untouched. On an instance of a :class:`Blocking` subclass the *same* coroutine is driven to its end on the
calling thread by ``send(None)``, so it may only await things that never suspend (blocking leaf drivers, the blocking
runtime). There is no event loop, no helper thread and no generated twin.

How the blocking view works: ``class BlockingUsers(Blocking, Users)`` gets, at class creation, a plain function for
every marked method of its bases. An instance has a *twin* that shares its ``__dict__``; the coroutine runs with the
twin as ``self``, and on the twin the plain function hands out coroutines again, so ``await self.other()`` and ``await
super().method()`` mean the same in both modes.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, cast, overload

from ambidex.errors import ConfigurationError, Suspended, UsageError

if TYPE_CHECKING:
    import inspect

__all__ = ["Blocking", "Detecting", "Store", "context", "drive", "in_event_loop", "operation", "stream"]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_KIND = "__ambidex_kind__"
_MADE = "__ambidex_made__"
_END = object()


def in_event_loop() -> bool:
    """Tell whether an asyncio event loop is running in this thread (without importing asyncio)."""
    asyncio = sys.modules.get("asyncio.events")
    return asyncio is not None and asyncio._get_running_loop() is not None


def drive(coro: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends to its end on this thread and return its result.

    Raises:
        Suspended: the coroutine awaited something that needs an event loop; the message names both.
    """
    try:
        driver = _idle.pop()
    except IndexError:
        driver = _new_driver()
    value = driver.send(coro)
    if driver.gi_yieldfrom is None:
        _idle.append(driver)
        return cast("R", value)
    raise _suspended(coro)


# What coro.send(None) returns arrives as the value of an exception, and raising it costs more than everything else
# that is done here. A generator that delegates to one coroutine after the other receives the value without one.
# A driver serves one coroutine at a time; one whose coroutine raised or suspended is not used again.


@types.coroutine
def _driving() -> Generator[Any, Any, None]:
    coro = yield
    while True:
        coro = yield (yield from coro)


def _new_driver() -> Any:
    driver = _driving()
    driver.send(None)  # to its first yield
    return driver


_idle: list[Any] = []


def _suspended(coro: Any) -> Suspended:
    """Describe where ``coro`` suspended, close it, and return the error to raise."""
    name = getattr(coro, "__qualname__", repr(coro))
    inner, where, awaited = coro, "", coro
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        awaited = inner
        inner = (
            getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None) or getattr(inner, "ag_await", None)
        )
    try:
        coro.close()
    except RuntimeError:  # it swallowed GeneratorExit; there is nothing more to stop
        pass
    return Suspended(
        f"{name} suspended while it was called from synchronous code, at {where}, awaiting {type(awaited).__name__}. "
        "Await the asynchronous form instead (storage.aio), take sleeping, locks and gathering from the injected "
        "runtime, or wrap a client that has only an async form with ambidex.bridge."
    )


class Store:
    """The base of everything written once for both modes.

    A subclass that overrides a marked method without marking the override is refused when the class is made,
    because the override would quietly hand coroutines to synchronous callers.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class; see above."""
        super().__init_subclass__(**kwargs)
        _check_overrides(cls)

    def _derive(self, *args: Any) -> Self:
        """Return a new object of this class for other arguments; seen from inside an operation.

        One that can be awaited on.
        """
        return type(self)(*args)


class Blocking:
    """Mixed in first, makes the synchronous, typed view of a class: ``class BlockingUsers(Blocking, Users): ...``."""

    _twin: Any

    if not TYPE_CHECKING:  # a checker must infer a generic view's arguments from __init__

        def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
            """Make the object and its twin."""
            self = super().__new__(cls)
            twin = super().__new__(cls)
            # A dictionary that was made for one object keeps its values apart from its keys, and the interpreter's
            # fast way to an attribute does not serve those once two objects share it: 0.05 µs a look.
            shared = {"_twin": twin}
            try:
                self.__dict__ = twin.__dict__ = shared
            except AttributeError:
                raise ConfigurationError(
                    f"{cls.__qualname__} has __slots__ and no __dict__; a Blocking view needs one"
                ) from None
            return self

    def _derive(self, *args: Any) -> Self:
        made = type(self)(*args)
        return cast("Self", made._twin) if self._twin is self else made

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class; see above."""
        super().__init_subclass__(**kwargs)
        _check_overrides(cls)
        for name, made in _marked(cls):
            kind = getattr(made, _KIND)
            _install(cls, name, made, _BLOCKING_FORMS[kind](made))
        _check_unmarked(cls)


class Detecting:
    """Mixed in first, makes the view that answers with a value, or with an awaitable inside a running event loop."""

    _aio: Any
    _sync: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class; see above."""
        super().__init_subclass__(**kwargs)
        for name, made in _marked(cls):
            form = _detecting_context(name) if getattr(made, _KIND) == "context" else _detecting(name)
            _install(cls, name, made, form)


def _marked(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each marked method that the MRO resolves, looking through the functions installed by views."""
    seen: set[str] = set()
    for owner in cls.__mro__:
        for name, value in list(vars(owner).items()):
            if name in seen or hasattr(value, _MADE):
                continue
            seen.add(name)
            if hasattr(value, _KIND):
                yield name, value


def _install(cls: type, name: str, source: Callable[..., Any], form: Callable[..., Any]) -> None:
    functools.update_wrapper(form, source)
    setattr(form, _MADE, True)
    setattr(cls, name, form)


_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x200  # of inspect, whose import would be a fifth of what the package costs


def _is_async(value: object, flags: int = _COROUTINE | _ASYNC_GENERATOR) -> bool:
    """Tell whether calling this makes a coroutine or an asynchronous generator, as inspect tells it."""
    if type(value) is types.FunctionType and not hasattr(value, "_is_coroutine_mark"):
        return bool(value.__code__.co_flags & flags)
    if not callable(value) or isinstance(value, type):
        return False
    import inspect

    return (bool(flags & _COROUTINE) and inspect.iscoroutinefunction(value)) or (
        bool(flags & _ASYNC_GENERATOR) and inspect.isasyncgenfunction(value)
    )


def _check_overrides(cls: type) -> None:
    """Refuse an ``async def`` that overrides a marked method without being marked itself."""
    for name, value in vars(cls).items():
        if hasattr(value, _KIND) or not _is_async(value):
            continue
        for base in cls.__mro__[1:]:
            kind = getattr(vars(base).get(name), _KIND, None)
            if kind is not None:
                raise TypeError(
                    f"{cls.__qualname__}.{name} overrides the @{kind} {base.__qualname__}.{name} without its mark; "
                    f"put @{kind} above 'async def {name}', or synchronous callers would receive a coroutine"
                )


def _check_unmarked(cls: type) -> None:
    """Refuse a blocking view with a public ``async def`` that synchronous callers could not call."""
    for owner in cls.__mro__:
        for name, value in vars(owner).items():
            if not name.startswith("_") and _is_async(value) and not hasattr(value, _KIND):
                raise TypeError(
                    f"{owner.__qualname__}.{name} is a public 'async def' without a mark, so its blocking view "
                    f"{cls.__qualname__} would hand out a coroutine; put @operation above it (or @stream)"
                )


# The blocking forms. Each receives the outer object or its twin; the twin is asked by coroutines
# that are already being driven, and gets the asynchronous form.


def _blocking_operation(__fn: Callable[..., Any], /) -> Callable[..., Any]:
    """Return the method, which at its first call becomes the one of its shape.

    Most methods of a view are never called in a process, and compiling all of them took most of the time of an import.
    It becomes another rather than being replaced, so that what has kept a bound method has the fast one, too.
    """

    def __method(__self: Any, /, *__args: Any, **__kwargs: Any) -> Any:
        _compile(__method, __fn)
        return __method(__self, *__args, **__kwargs)

    return __method


def _compile(method: Any, fn: Callable[..., Any]) -> None:
    import inspect

    parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    own = inspect.Parameter("__self", inspect.Parameter.POSITIONAL_ONLY)
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    rest = parameters[1:] if parameters[0].kind in plain else parameters  # a wrapper may take self among its *args
    bare = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None) for p in rest]
    code = _method_code(str(inspect.Signature([own, *bare])), ", ".join(map(_passed_on, rest)))
    # The code comes last: another thread may be calling.
    method.__defaults__ = tuple(p.default for p in rest if p.kind in plain and p.default is not p.empty) or None
    method.__kwdefaults__ = {p.name: p.default for p in rest if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    method.__code__ = code


# What the compiled methods use, under names that no parameter has.
__idle, __new_driver, __suspended = _idle, _new_driver, _suspended
_METHOD = """
def shape(__fn, __method):
    def method{parameters}:
        __twin = __self._twin
        if __twin is __self:
            return __fn(__self, {arguments})
        __coro = __fn(__twin, {arguments})
        try:  # as in drive(), without its call
            __driver = __idle.pop()
        except IndexError:
            __driver = __new_driver()
        __value = __driver.send(__coro)
        if __driver.gi_yieldfrom is None:
            __idle.append(__driver)
            return __value
        raise __suspended(__coro)
        __method  # never reached; code can only be exchanged for code that closes over the same names
    return method
"""


def _passed_on(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.KEYWORD_ONLY:
        return f"{parameter.name}={parameter.name}"
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    return stars.get(cast("Any", parameter.kind), "") + parameter.name


@functools.cache
def _method_code(parameters: str, arguments: str) -> types.CodeType:
    """Compile the method for a list of parameters; its global names are this module's.

    As dataclasses does: handing on ``*args, **kwargs`` would double what the mechanism adds to a call.
    """
    names: dict[str, Any] = {}
    source = _METHOD.format(parameters=parameters, arguments=arguments)
    exec(compile(source, f"<ambidex operation {parameters}>", "exec"), names)  # noqa: S102  # names of parameters only
    return cast("types.CodeType", names["shape"](None, None).__code__)


def _blocking_stream(fn: Callable[..., Any]) -> Callable[..., Any]:
    pages = fn.__wrapped__  # type: ignore[attr-defined]  # set by stream()

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        twin = self._twin
        source = pages(twin, *args, **kwargs)
        return PageStream(source) if twin is self else BlockingPageStream(source)

    return method


def _blocking_context(fn: Callable[..., Any]) -> Callable[..., Any]:
    body = fn.__wrapped__  # type: ignore[attr-defined]  # set by context()

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        twin = self._twin
        source = body(twin, *args, **kwargs)
        return _AsyncContext(source) if twin is self else _BlockingContext(source)

    return method


_BLOCKING_FORMS = {"operation": _blocking_operation, "stream": _blocking_stream, "context": _blocking_context}


def _detecting(name: str) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._aio if in_event_loop() else self._sync, name)(*args, **kwargs)

    return method


def _detecting_context(name: str) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return _EitherContext(
            lambda: getattr(self._aio, name)(*args, **kwargs),
            lambda: getattr(self._sync, name)(*args, **kwargs),
        )

    return method


class PageStream(AsyncIterator[T]):
    """The asynchronous form of a :func:`stream`: iterates items, fetching a page when the last one is used up."""

    def __init__(self, pages: AsyncGenerator[Sequence[T], None]) -> None:
        self._pages = pages
        self._page: Iterator[T] = iter(())

    def __aiter__(self) -> PageStream[T]:
        return self

    async def __anext__(self) -> T:
        while (item := next(self._page, _END)) is _END:
            self._page = iter(await self._pages.__anext__())
        return cast("T", item)

    async def pages(self) -> AsyncIterator[Sequence[T]]:
        """Iterate whole pages instead of items."""
        async for page in self._pages:
            yield page

    async def aclose(self) -> None:
        """End the stream and release what it holds."""
        self._page = iter(())
        await self._pages.aclose()

    async def __aenter__(self) -> PageStream[T]:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()


class BlockingPageStream(Iterator[T]):
    """The synchronous form of a :func:`stream`: the generator is driven once a page, items come from a list."""

    def __init__(self, pages: AsyncGenerator[Sequence[T], None]) -> None:
        self._pages = pages
        self._page: Iterator[T] = iter(())

    def __iter__(self) -> BlockingPageStream[T]:
        return self

    def __next__(self) -> T:
        while (item := next(self._page, _END)) is _END:
            self._page = iter(self._next_page())
        return cast("T", item)

    def _next_page(self) -> Sequence[T]:
        try:
            return drive(_next(self._pages))
        except StopAsyncIteration:
            raise StopIteration from None

    def pages(self) -> Iterator[Sequence[T]]:
        """Iterate whole pages instead of items."""
        try:
            while True:
                yield drive(_next(self._pages))
        except StopAsyncIteration:
            return

    def close(self) -> None:
        """End the stream and release what it holds."""
        self._page = iter(())
        drive(_close(self._pages))

    def __enter__(self) -> BlockingPageStream[T]:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


async def _next(source: AsyncGenerator[T, Any]) -> T:
    return await source.__anext__()


async def _close(source: AsyncGenerator[Any, Any]) -> None:
    await source.aclose()


class _AsyncContext(AbstractAsyncContextManager[T, bool | None]):
    """The asynchronous form of a :func:`context`: the generator's one value is what ``as`` binds."""

    def __init__(self, body: AsyncGenerator[T, None]) -> None:
        self._body = body

    async def __aenter__(self) -> T:
        return await self._body.__anext__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if exc is None:
            try:
                await self._body.__anext__()
            except StopAsyncIteration:
                return False
            raise UsageError("a @context body yielded twice")
        try:
            await self._body.athrow(exc)
        except StopAsyncIteration:
            return True
        except BaseException as raised:
            # an async generator turns these two into RuntimeError (PEP 479, PEP 525)
            wrapped = isinstance(exc, (StopIteration, StopAsyncIteration)) and raised.__cause__ is exc
            if raised is exc or wrapped:
                return False
            raise
        raise UsageError("a @context body yielded after an exception")


class _BlockingContext(AbstractContextManager[T, bool | None]):
    """The synchronous form of a :func:`context`."""

    def __init__(self, body: AsyncGenerator[T, None]) -> None:
        self._inner = _AsyncContext(body)

    def __enter__(self) -> T:
        return drive(self._inner.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return drive(self._inner.__aexit__(kind, exc, trace))


class _EitherContext:
    """A context on a detecting view: ``with`` enters the synchronous form, ``async with`` the asynchronous one."""

    def __init__(self, aio: Callable[[], Any], blocking: Callable[[], Any]) -> None:
        self._make_aio, self._make_blocking = aio, blocking

    def __enter__(self) -> Any:
        self._entered = self._make_blocking()
        return self._entered.__enter__()

    def __exit__(self, *exc: object) -> Any:
        return self._entered.__exit__(*exc)

    async def __aenter__(self) -> Any:
        self._entered = self._make_aio()
        return await self._entered.__aenter__()

    async def __aexit__(self, *exc: object) -> Any:
        return await self._entered.__aexit__(*exc)


if TYPE_CHECKING:
    # Type checkers see descriptors whose result depends on the view; at run time the marks below
    # return plain functions, so an asynchronous call costs nothing at all.

    class operation(Generic[S, P, R]):  # noqa: N801  # used as a decorator
        """Mark an ``async def`` method as callable in both modes."""

        def __init__(self, fn: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]) -> None: ...
        @overload
        def __get__(self, obj: None, owner: Any = ...) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]: ...
        @overload
        def __get__(self, obj: Blocking, owner: Any = ...) -> Callable[P, R]: ...
        @overload
        def __get__(self, obj: Detecting, owner: Any = ...) -> Callable[P, Any]: ...
        @overload
        def __get__(self, obj: object, owner: Any = ...) -> Callable[P, Coroutine[Any, Any, R]]: ...
        def __get__(self, obj: Any, owner: Any = ...) -> Any: ...

    class stream(Generic[S, P, R]):  # noqa: N801  # used as a decorator
        """Mark an async generator method that yields pages; callers iterate the items."""

        def __init__(self, fn: Callable[Concatenate[S, P], AsyncGenerator[Sequence[R], None]]) -> None: ...
        @overload
        def __get__(self, obj: None, owner: Any = ...) -> Callable[Concatenate[Any, P], PageStream[R]]: ...
        @overload
        def __get__(self, obj: Blocking, owner: Any = ...) -> Callable[P, BlockingPageStream[R]]: ...
        @overload
        def __get__(self, obj: Detecting, owner: Any = ...) -> Callable[P, Any]: ...
        @overload
        def __get__(self, obj: object, owner: Any = ...) -> Callable[P, PageStream[R]]: ...
        def __get__(self, obj: Any, owner: Any = ...) -> Any: ...

    class context(Generic[S, P, R]):  # noqa: N801  # used as a decorator
        """Mark an async generator method that yields once as a context manager of both modes."""

        def __init__(self, fn: Callable[Concatenate[S, P], AsyncGenerator[R, None]]) -> None: ...
        @overload
        def __get__(
            self, obj: None, owner: Any = ...
        ) -> Callable[Concatenate[Any, P], AbstractAsyncContextManager[R]]: ...
        @overload
        def __get__(self, obj: Blocking, owner: Any = ...) -> Callable[P, AbstractContextManager[R]]: ...
        @overload
        def __get__(self, obj: Detecting, owner: Any = ...) -> Callable[P, Any]: ...
        @overload
        def __get__(self, obj: object, owner: Any = ...) -> Callable[P, AbstractAsyncContextManager[R]]: ...
        def __get__(self, obj: Any, owner: Any = ...) -> Any: ...

else:

    def operation(fn: Any) -> Any:
        """Mark an ``async def`` method as callable in both modes.

        Raises:
            TypeError: the function is not a coroutine function.
        """
        if not _is_async(fn, _COROUTINE):
            raise TypeError(f"@operation needs an 'async def' that returns a value; {fn!r} is not one")
        setattr(fn, _KIND, "operation")
        return fn

    def stream(fn: Any) -> Any:
        """Mark an async generator method that yields pages (sequences); callers iterate the items.

        Raises:
            TypeError: the function is not an async generator function.
        """
        return _generator_form(fn, "stream", PageStream)

    def context(fn: Any) -> Any:
        """Mark an async generator method that yields exactly once as a context manager of both modes.

        Raises:
            TypeError: the function is not an async generator function.
        """
        return _generator_form(fn, "context", _AsyncContext)


def _generator_form(
    fn: Callable[..., Any], kind: Literal["stream", "context"], form: Callable[[Any], Any]
) -> Callable[..., Any]:
    if not _is_async(fn, _ASYNC_GENERATOR):
        raise TypeError(f"@{kind} needs an 'async def' with yield; {fn!r} is not one")

    @functools.wraps(fn)
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return form(fn(self, *args, **kwargs))

    setattr(method, _KIND, kind)
    return method
