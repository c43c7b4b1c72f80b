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
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, cast, overload

from ambidex.core import driving
from ambidex.core.driving import drive, in_event_loop
from ambidex.core.forms import AsyncContext, BlockingContext, BlockingPageStream, EitherContext, PageStream
from ambidex.errors import ConfigurationError

if TYPE_CHECKING:
    import inspect

__all__ = ["Blocking", "Detecting", "Store", "context", "drive", "in_event_loop", "operation", "stream"]

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_KIND = "__ambidex_kind__"
_MADE = "__ambidex_made__"


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
__idle, __new_driver, __suspended = driving.idle, driving.new_driver, driving.suspended
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
        return AsyncContext(source) if twin is self else BlockingContext(source)

    return method


_BLOCKING_FORMS = {"operation": _blocking_operation, "stream": _blocking_stream, "context": _blocking_context}


def _detecting(name: str) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._aio if in_event_loop() else self._sync, name)(*args, **kwargs)

    return method


def _detecting_context(name: str) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return EitherContext(
            lambda: getattr(self._aio, name)(*args, **kwargs),
            lambda: getattr(self._sync, name)(*args, **kwargs),
        )

    return method


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
        return _generator_form(fn, "context", AsyncContext)


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
