"""One source, three views: what each mark gives on each view, and what is refused when a class is made."""

import asyncio
import contextlib
import inspect
import pydoc
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import pytest

from ambidex.core.dual import Blocking, Detecting, Store, context, drive, in_event_loop, operation, stream
from ambidex.errors import ConfigurationError, Suspended, UsageError

T = TypeVar("T")


class Shelf(Store):
    """Keeps things."""

    kind = "shelf"

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.journal: list[str] = []

    @operation
    async def put(self, thing: str, *, times: int = 1) -> int:
        """Put a thing on the shelf.

        Args:
            thing: what.
            times: how often.
        """
        self.size += times
        self.journal.append(thing)
        return self.size

    @operation
    async def put_two(self, one: str, two: str) -> list[int]:
        return [await self.put(one), await self.put(two)]

    @operation
    async def fail(self, message: str) -> None:
        raise LookupError(message)

    @operation
    async def wait(self) -> None:
        await asyncio.sleep(0)

    @operation
    async def wait_below(self) -> None:
        await self.wait()

    @stream
    async def things(self, count: int, page: int = 2) -> AsyncGenerator[list[int], None]:
        """Give numbers."""
        self.journal.append("open")
        try:
            for start in range(0, count, page):
                self.journal.append(f"page {start}")
                yield list(range(start, min(start + page, count)))
        finally:
            self.journal.append("closed")

    @stream
    async def waiting_things(self) -> AsyncGenerator[list[int], None]:
        yield [1]
        await asyncio.sleep(0)
        yield [2]

    @stream
    async def doubled(self, count: int) -> AsyncGenerator[list[int], None]:
        async for page in self.things(count).pages():
            yield [2 * item for item in page]

    @context
    async def open(self, name: str, *, swallow: bool = False) -> AsyncGenerator[str, None]:
        """Hold something open."""
        self.journal.append(f"enter {name}")
        try:
            yield name.upper()
        except LookupError:
            if not swallow:
                raise
        finally:
            self.journal.append(f"exit {name}")

    @operation
    async def put_inside(self, thing: str) -> str:
        async with self.open(thing) as name:
            await self.put(name)
            return name

    @property
    def doubled_size(self) -> int:
        return 2 * self.size

    @classmethod
    def of(cls, size: int) -> "Shelf":
        return cls(size)

    @staticmethod
    def helper() -> str:
        return "help"

    def plain(self) -> int:
        return self.size


class BlockingShelf(Blocking, Shelf):
    """Keeps things, synchronously."""


class EitherShelf(Detecting, Shelf):
    def __init__(self) -> None:
        super().__init__()
        self._aio, self._sync = Shelf(), BlockingShelf()


# ---------------------------------------------------------------- operations


def test_an_operation_is_a_coroutine_or_a_value_by_view() -> None:
    assert asyncio.run(Shelf(1).put("a", times=2)) == 3
    assert BlockingShelf(1).put("a", times=2) == 3
    assert inspect.iscoroutinefunction(Shelf.put)
    assert not inspect.iscoroutinefunction(BlockingShelf.put)


def test_the_asynchronous_view_pays_nothing() -> None:
    assert inspect.isfunction(vars(Shelf)["put"])
    assert not hasattr(vars(Shelf)["put"], "__wrapped__")


def test_operations_call_each_other_in_both_modes() -> None:
    assert asyncio.run(Shelf().put_two("a", "b")) == [1, 2]
    shelf = BlockingShelf()
    assert shelf.put_two("a", "b") == [1, 2]
    assert shelf.put_inside("c") == "C"
    assert shelf.journal == ["a", "b", "enter c", "C", "exit c"]


def test_state_is_shared_between_the_view_and_its_operations() -> None:
    shelf = BlockingShelf()
    shelf.size = 10
    assert shelf.put("a") == 11
    assert (shelf.size, shelf.doubled_size, shelf.plain()) == (11, 22, 11)
    shelf.extra = 1  # type: ignore[attr-defined]
    assert shelf._twin.extra == 1


def test_class_and_static_methods_and_attributes_are_untouched() -> None:
    made = BlockingShelf.of(4)
    assert type(made) is BlockingShelf
    assert isinstance(made, BlockingShelf)
    assert made.put("x") == 5
    assert BlockingShelf.helper() == "help"
    assert BlockingShelf.kind == "shelf"


def test_an_error_comes_out_with_the_frames_that_raised_it() -> None:
    with pytest.raises(LookupError, match="gone") as caught:
        BlockingShelf().fail("gone")
    assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert caught.value.__context__ is None
    with pytest.raises(LookupError, match="gone"):
        asyncio.run(Shelf().fail("gone"))


def test_stop_iteration_does_not_pass_as_a_result() -> None:
    class Odd(Store):
        @operation
        async def stop(self) -> int:
            raise StopIteration(5)

    class BlockingOdd(Blocking, Odd):
        pass

    with pytest.raises(RuntimeError, match="StopIteration"):
        BlockingOdd().stop()


def test_names_docstrings_and_signatures_survive() -> None:
    for cls in (Shelf, BlockingShelf, EitherShelf):
        method = cls.put
        assert method.__name__ == "put"
        assert method.__qualname__ == "Shelf.put"
        assert method.__module__ == __name__
        assert "Put a thing on the shelf." in (inspect.getdoc(method) or "")
        assert list(inspect.signature(method).parameters) == ["self", "thing", "times"]
        assert "Put a thing on the shelf." in pydoc.render_doc(cls)
    assert list(inspect.signature(BlockingShelf().put).parameters) == ["thing", "times"]
    assert inspect.getdoc(BlockingShelf.things) == "Give numbers."
    assert inspect.getdoc(BlockingShelf.open) == "Hold something open."


def test_wrong_arguments_are_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match="put"):
        BlockingShelf().put()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected"):
        BlockingShelf().put("a", wrong=1)  # type: ignore[call-arg]


def test_arguments_named_self_or_like_internals_pass_through() -> None:
    class Odd(Store):
        @operation
        async def echo(self, /, **given: Any) -> dict[str, Any]:
            return given

    class BlockingOdd(Blocking, Odd):
        pass

    assert BlockingOdd().echo(self=1, twin=2, args=3) == {"self": 1, "twin": 2, "args": 3}


# ---------------------------------------------------------------- suspension


def test_suspending_names_the_operation_the_place_and_the_remedy() -> None:
    with pytest.raises(Suspended) as caught:
        BlockingShelf().wait_below()
    message = str(caught.value)
    assert message.startswith("Shelf.wait_below suspended")
    assert "sleep" in message
    assert ".py:" in message
    assert "storage.aio" in message
    assert "bridge" in message


def test_a_suspended_coroutine_is_closed() -> None:
    journal: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            journal.append("closed")

    with pytest.raises(Suspended, match="forever"):
        drive(forever())
    assert journal == ["closed"]


def test_a_coroutine_that_refuses_to_close_is_reported_too() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(GeneratorExit):
                await asyncio.sleep(0)

    with pytest.raises(Suspended, match="stubborn"):
        drive(stubborn())


def test_a_stream_and_a_context_that_suspend_are_named() -> None:
    numbers = BlockingShelf().waiting_things()
    assert next(numbers) == 1
    with pytest.raises(Suspended, match="sleep"):
        next(numbers)


def test_drive_returns_or_raises() -> None:
    async def give() -> int:
        return 5

    async def refuse() -> int:
        raise KeyError("x")

    assert drive(give()) == 5
    with pytest.raises(KeyError):
        drive(refuse())


def test_blocking_calls_work_inside_a_running_loop() -> None:
    async def main() -> int:
        return BlockingShelf().put("a")

    assert asyncio.run(main()) == 1


# ---------------------------------------------------------------- streams


def test_a_stream_gives_items_in_both_modes() -> None:
    async def collect() -> list[int]:
        return [item async for item in Shelf().things(5)]

    assert asyncio.run(collect()) == [0, 1, 2, 3, 4]
    assert list(BlockingShelf().things(5)) == [0, 1, 2, 3, 4]
    assert list(BlockingShelf().doubled(3)) == [0, 2, 4]
    assert list(BlockingShelf().things(0)) == []


def test_a_stream_gives_pages_in_both_modes() -> None:
    async def collect() -> list[Any]:
        return [page async for page in Shelf().things(5).pages()]

    assert asyncio.run(collect()) == [[0, 1], [2, 3], [4]]
    assert list(BlockingShelf().things(5).pages()) == [[0, 1], [2, 3], [4]]


def test_a_stream_fetches_a_page_only_when_it_is_needed() -> None:
    shelf = BlockingShelf()
    numbers = shelf.things(6)
    assert shelf.journal == []
    assert [next(numbers), next(numbers)] == [0, 1]
    assert shelf.journal == ["open", "page 0"]
    assert next(numbers) == 2
    assert shelf.journal == ["open", "page 0", "page 2"]


def test_a_stream_that_is_left_early_is_closed() -> None:
    shelf = BlockingShelf()
    with shelf.things(6) as numbers:
        for number in numbers:
            if number == 2:
                break
    assert shelf.journal[-1] == "closed"
    assert list(numbers) == []
    numbers.close()

    async def leave() -> list[str]:
        shelf = Shelf()
        async with shelf.things(6) as numbers:
            async for number in numbers:
                if number == 2:
                    break
        assert [item async for item in numbers] == []
        return shelf.journal

    assert asyncio.run(leave())[-1] == "closed"


def test_a_stream_that_ended_stays_ended() -> None:
    numbers = BlockingShelf().things(1)
    assert list(numbers) == [0]
    assert list(numbers) == []
    with pytest.raises(StopIteration):
        next(numbers)


def test_a_stream_skips_empty_pages_and_passes_errors_on() -> None:
    class Odd(Store):
        @stream
        async def items(self) -> AsyncGenerator[list[int], None]:
            yield []
            yield [1]
            yield []
            raise LookupError("broken")

    class BlockingOdd(Blocking, Odd):
        pass

    numbers = BlockingOdd().items()
    assert next(numbers) == 1
    with pytest.raises(LookupError, match="broken"):
        next(numbers)
    with pytest.raises(LookupError, match="broken"):
        list(BlockingOdd().items().pages())


# ---------------------------------------------------------------- contexts


def test_a_context_enters_and_exits_in_both_modes() -> None:
    async def use() -> list[str]:
        shelf = Shelf()
        async with shelf.open("a") as name:
            assert name == "A"
            await shelf.put("inside")
        return shelf.journal

    shelf = BlockingShelf()
    with shelf.open("a") as name:
        assert name == "A"
        shelf.put("inside")
    assert shelf.journal == asyncio.run(use()) == ["enter a", "inside", "exit a"]


@pytest.mark.parametrize("error", [LookupError("x"), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_a_context_passes_an_exception_on_unchanged(error: BaseException) -> None:
    shelf = BlockingShelf()
    with pytest.raises(type(error)) as caught, shelf.open("a"):
        raise error
    assert caught.value is error
    assert shelf.journal == ["enter a", "exit a"]

    async def use() -> None:
        async with Shelf().open("a"):
            raise error

    coro = use()
    with pytest.raises(type(error)) as caught:
        drive(coro)
    assert caught.value is error


def _refuse() -> None:
    raise LookupError("x")


def test_a_context_may_swallow_an_exception() -> None:
    with BlockingShelf().open("a", swallow=True):
        _refuse()

    async def use() -> str:
        async with Shelf().open("a", swallow=True):
            _refuse()
        return "after"

    assert asyncio.run(use()) == "after"


def test_a_context_may_raise_another_exception() -> None:
    class Odd(Store):
        @context
        async def translate(self) -> AsyncGenerator[None, None]:
            try:
                yield
            except KeyError as error:
                raise LookupError("translated") from error

        @context
        async def twice(self) -> AsyncGenerator[None, None]:
            yield
            yield

        @context
        async def stubborn(self) -> AsyncGenerator[None, None]:
            try:
                yield
            except KeyError:
                yield

    class BlockingOdd(Blocking, Odd):
        pass

    with pytest.raises(LookupError, match="translated"), BlockingOdd().translate():
        raise KeyError("x")
    with pytest.raises(UsageError, match="twice"), BlockingOdd().twice():
        pass
    with pytest.raises(UsageError, match="after an exception"), BlockingOdd().stubborn():
        raise KeyError("x")


def test_a_context_passes_stop_iteration_on() -> None:
    for error in (StopIteration("x"), StopAsyncIteration("x")):
        with pytest.raises(type(error)) as caught, BlockingShelf().open("a"):
            raise error
        assert caught.value is error


# ---------------------------------------------------------------- the marks


def test_a_mark_refuses_what_it_cannot_mark() -> None:
    def plain(self: Any) -> None: ...

    async def generator(self: Any) -> AsyncIterator[int]:
        yield 1

    async def coroutine(self: Any) -> None: ...

    cases: tuple[tuple[Any, Any], ...] = (
        (operation, plain),
        (operation, generator),
        (stream, plain),
        (stream, coroutine),
        (context, coroutine),
    )
    for mark, wrong in cases:
        with pytest.raises(TypeError, match="needs an 'async def'"):
            mark(wrong)


def test_a_forgotten_mark_on_an_override_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Deeper.put overrides the @operation Shelf.put .*put @operation above"):

        class Deeper(Shelf):
            async def put(self, thing: str, *, times: int = 1) -> int:
                return 0

    with pytest.raises(TypeError, match="overrides the @stream"):

        class Streams(Shelf):
            async def things(self, count: int, page: int = 2) -> AsyncIterator[int]:  # type: ignore[override]
                yield 1

    with pytest.raises(TypeError, match="overrides the @context"):

        class Contexts(Shelf):
            async def open(self, name: str, *, swallow: bool = False) -> None:  # type: ignore[override]
                return


def test_a_forgotten_mark_is_refused_on_a_grandchild_and_on_a_view() -> None:
    class Child(Shelf):
        pass

    with pytest.raises(TypeError, match=r"Grandchild\.put overrides"):

        class Grandchild(Child):
            async def put(self, thing: str, *, times: int = 1) -> int:
                return 0

    with pytest.raises(TypeError, match=r"View\.put overrides"):

        class View(Blocking, Shelf):
            async def put(self, thing: str, *, times: int = 1) -> int:  # type: ignore[override]
                return 0

    with pytest.raises(TypeError, match=r"View\.put overrides"):

        class View(BlockingShelf):  # type: ignore[no-redef]
            async def put(self, thing: str, *, times: int = 1) -> int:  # type: ignore[override]
                return 0


def test_a_public_coroutine_without_mark_has_no_blocking_view() -> None:
    class Users(Store):
        async def everyone(self) -> list[str]:
            return []

        async def _private(self) -> None: ...

    with pytest.raises(TypeError, match=r"Users.everyone is a public 'async def' without a mark"):

        class BlockingUsers(Blocking, Users):
            pass


def test_a_marked_override_counts_in_both_modes_with_super() -> None:
    class Louder(Shelf):
        @operation
        async def put(self, thing: str, *, times: int = 1) -> int:
            return 100 * await super().put(thing.upper(), times=times)

        @stream
        async def things(self, count: int, page: int = 2) -> AsyncGenerator[list[int], None]:
            async for numbers in super().things(count, page).pages():
                yield [-number for number in numbers]

        @context
        async def open(self, name: str, *, swallow: bool = False) -> AsyncGenerator[str, None]:
            async with super().open(name) as opened:
                yield opened + "!"

    class BlockingLouder(Blocking, Louder):
        pass

    shelf = BlockingLouder()
    assert shelf.put("a") == 100
    assert shelf.put_two("b", "c") == [200, 300]
    assert shelf.journal == ["A", "B", "C"]
    assert list(shelf.things(3)) == [0, -1, -2]
    with shelf.open("x") as name:
        assert name == "X!"
    assert asyncio.run(Louder().put_two("b", "c")) == [100, 200]


def test_a_subclass_of_a_view_may_mark_its_own_operations() -> None:
    class MoreBlocking(BlockingShelf):
        # Checkers see the methods of a view as blocking, also from inside; the class to extend is the one below it.
        @operation
        async def put_three(self, thing: str) -> list[int]:
            own: Any = self
            return [*await own.put_two(thing, thing), await own.put(thing)]

        @operation
        async def put(self, thing: str, *, times: int = 1) -> int:
            below: Any = super()
            number: int = await below.put(thing, times=times)
            return -number

    assert MoreBlocking().put_three("a") == [-1, -2, -3]


def test_a_plain_override_of_a_mark_stays_plain() -> None:
    class Fixed(Shelf):
        def put(self, thing: str, *, times: int = 1) -> int:  # type: ignore[override]
            return 42

    class BlockingFixed(Blocking, Fixed):
        pass

    assert BlockingFixed().put("a") == 42


def test_generic_classes_and_generic_subclasses() -> None:
    class Box(Store, Generic[T]):
        def __init__(self, item: T) -> None:
            self.item = item

        @operation
        async def get(self) -> T:
            return self.item

    class Pair(Box[T], Generic[T]):
        @operation
        async def twice(self) -> list[T]:
            return [await self.get(), await self.get()]

    class BlockingBox(Blocking, Box[T]):
        pass

    class BlockingPair(Blocking, Pair[T]):
        pass

    class BlockingNames(BlockingPair[str]):
        pass

    assert BlockingBox(1).get() == 1
    assert BlockingBox[int](1).get() == 1
    assert BlockingPair("a").twice() == ["a", "a"]
    assert BlockingNames("b").twice() == ["b", "b"]
    assert asyncio.run(Pair[int](3).twice()) == [3, 3]


def test_diamond_inheritance_follows_the_method_resolution_order() -> None:
    class Base(Store):
        @operation
        async def trace(self) -> list[str]:
            return ["base"]

    class Left(Base):
        @operation
        async def trace(self) -> list[str]:
            return ["left", *await super().trace()]

    class Right(Base):
        @operation
        async def trace(self) -> list[str]:
            return ["right", *await super().trace()]

    class Both(Left, Right):
        @operation
        async def trace(self) -> list[str]:
            return ["both", *await super().trace()]

    class BlockingBoth(Blocking, Both):
        pass

    class BlockingLeft(Blocking, Left):
        pass

    class Joined(BlockingLeft, Right):
        pass

    expected = ["both", "left", "right", "base"]
    assert BlockingBoth().trace() == asyncio.run(Both().trace()) == expected
    assert Joined().trace() == expected[1:]


def test_a_class_without_dict_is_refused() -> None:
    class Slotted(Store):
        __slots__ = ("x",)

        @operation
        async def get(self) -> int:
            return 1

    class Bare(Blocking, Slotted):
        __slots__ = ()

    # Store and Blocking have no slots of their own, so there is a __dict__, and it works.
    assert Bare().get() == 1
    assert issubclass(ConfigurationError, ValueError)


def test_derived_objects_are_of_the_view_they_are_asked_from() -> None:
    class Node(Store):
        def __init__(self, name: str) -> None:
            self.name = name

        def child(self, name: str) -> "Node":
            return self._derive(self.name + name)

        @operation
        async def path(self) -> str:
            return self.name

        @operation
        async def path_of_child(self, name: str) -> str:
            return await self.child(name).path()

    class BlockingNode(Blocking, Node):
        pass

    assert BlockingNode("a").child("b").path() == "ab"  # type: ignore[comparison-overlap]  # typed as the base
    assert BlockingNode("a").path_of_child("b") == "ab"
    assert asyncio.run(Node("a").child("b").path_of_child("c")) == "abc"


# ---------------------------------------------------------------- detecting


def test_detecting_answers_by_context() -> None:
    shelf = EitherShelf()
    assert shelf.put("a") == 1

    async def main() -> list[Any]:
        assert in_event_loop()
        pending = shelf.put("b")
        assert inspect.isawaitable(pending)
        results: list[Any] = [await pending, await shelf.put("c")]
        async with shelf.open("x") as name:
            results.append(name)
        results.append([item async for item in shelf.things(3)])
        return results

    assert asyncio.run(main()) == [1, 2, "X", [0, 1, 2]]
    assert not in_event_loop()
    assert list(shelf.things(3)) == [0, 1, 2]
    with shelf.open("y") as name:
        assert name == "Y"


def test_a_detecting_context_is_chosen_by_the_statement() -> None:
    shelf = EitherShelf()

    async def main() -> str:
        with shelf.open("sync inside a loop") as name:
            return str(name)

    assert asyncio.run(main()) == "SYNC INSIDE A LOOP"


def test_a_forgotten_await_is_pythons_own_warning() -> None:
    async def main() -> None:
        EitherShelf().put("lost")

    with pytest.warns(RuntimeWarning, match="'Shelf.put' was never awaited"):
        asyncio.run(main())


def test_a_bound_method_that_was_kept_before_its_first_call_is_compiled_by_it() -> None:
    class Adder(Store):
        @operation
        async def add(self, _idle: int, more: int = 1, *rest: int, twice: bool = False) -> int:
            return (_idle + more + sum(rest)) * (1 + twice)

    class BlockingAdder(Blocking, Adder):
        pass

    add = BlockingAdder().add
    assert add.__code__.co_varnames[0] == "__self"
    assert "_idle" not in add.__code__.co_varnames
    assert add(1) == 2
    assert "_idle" in add.__code__.co_varnames
    assert add(1, 2, 3, twice=True) == 12
    assert add(1, more=4) == 5
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument"):
        add()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword"):
        BlockingAdder().add(1, other=2)  # type: ignore[call-arg]


def test_threads_may_come_at_once_to_a_method_that_was_never_called() -> None:
    class Echo(Store):
        @operation
        async def echo(self, value: int, *, plus: int = 1) -> int:
            return value + plus

    for _ in range(20):
        view = type("BlockingEcho", (Blocking, Echo), {})
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(view().echo, range(50))) == list(range(1, 51))
