"""One source, three views: what each mark gives on each view, and what is refused when a class is made."""

import asyncio
import inspect
import pydoc
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import pytest

from ambidex.core.dual import Blocking, Store, context, in_event_loop, operation, stream
from ambidex.errors import ConfigurationError
from tests.core.shelf import BlockingShelf, EitherShelf, Shelf

T = TypeVar("T")


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
        assert method.__module__ == Shelf.__module__
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
