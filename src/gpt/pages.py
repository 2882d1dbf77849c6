"""Pages of stored completions and of their messages, under the official package's names.

A page iterates over its items and then over those of the pages after it, which are fetched when they are come to; `data` has
the items of this one alone. Each page is a call of its own, with its own deadline and retries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gpt.errors import InvalidRequestError
from gpt.protocol.stored import following
from gpt.types import ChatCompletion, StoredMessage

if TYPE_CHECKING:
    from gpt.protocol.stored import StoredCall
    from gpt.protocol.wire import ResponseInfo

__all__ = ["AsyncListing", "AsyncPage", "Page"]

Item = TypeVar("Item", ChatCompletion, StoredMessage)

Ask = Callable[["StoredCall[Any]"], Any]
AsyncAsk = Callable[["StoredCall[Any]"], Awaitable[Any]]


class _Page(Generic[Item]):
    """What both pages share."""

    def __init__(self, answer: Any, call: StoredCall[Any]) -> None:
        self.answer = answer
        """The page as a value, a ChatCompletionList or a ChatCompletionMessageList."""
        self._call = call

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.data)} items, has_more={self.has_more})"

    @property
    def data(self) -> list[Item]:
        """The items of this page."""
        data: list[Item] = self.answer.data
        return data

    @property
    def first_id(self) -> str | None:
        """The id of the first item, as the server says."""
        first: str | None = self.answer.first_id
        return first

    @property
    def last_id(self) -> str | None:
        """The id of the last item, as the server says."""
        last: str | None = self.answer.last_id
        return last

    @property
    def has_more(self) -> bool | None:
        """Whether the list goes on, as the server says; None where it does not."""
        more: bool | None = self.answer.has_more
        return more

    @property
    def info(self) -> ResponseInfo | None:
        """The HTTP facts of the call."""
        info: ResponseInfo | None = self.answer.info
        return info

    def to_dict(self) -> dict[str, Any]:
        """Exactly what arrived, unknown fields included."""
        arrived: dict[str, Any] = self.answer.to_dict()
        return arrived

    def has_next_page(self) -> bool:
        """Whether there may be items after this page. It may be empty, where the server does not say."""
        return following(self._call, self.answer) is not None

    def _next(self) -> StoredCall[Any]:
        call = following(self._call, self.answer)
        if call is None:
            raise InvalidRequestError("this page is the last; has_next_page() tells")
        return call


class Page(_Page[Item]):
    """A page of a list. Iterates over the items of all pages from this one on."""

    def __init__(self, answer: Any, call: StoredCall[Any], ask: Ask) -> None:
        super().__init__(answer, call)
        self._ask = ask

    def get_next_page(self) -> Page[Item]:
        """The page after this one. Raises InvalidRequestError where this is the last, and GptError as a call does."""
        call = self._next()
        return Page(self._ask(call), call, self._ask)

    def iter_pages(self) -> Iterator[Page[Item]]:
        """The page itself and those after it, each fetched when it is come to."""
        page = self
        yield page
        while page.has_next_page():
            page = page.get_next_page()
            yield page

    def __iter__(self) -> Iterator[Item]:
        for page in self.iter_pages():
            yield from page.data


class AsyncPage(_Page[Item]):
    """Page for asyncio: iterated over with `async for`."""

    def __init__(self, answer: Any, call: StoredCall[Any], ask: AsyncAsk) -> None:
        super().__init__(answer, call)
        self._ask = ask

    async def get_next_page(self) -> AsyncPage[Item]:
        """The page after this one; see `Page.get_next_page`."""
        call = self._next()
        return AsyncPage(await self._ask(call), call, self._ask)

    async def iter_pages(self) -> AsyncIterator[AsyncPage[Item]]:
        """The page itself and those after it, each fetched when it is come to."""
        page = self
        yield page
        while page.has_next_page():
            page = await page.get_next_page()
            yield page

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for page in self.iter_pages():
            for item in page.data:
                yield item


class AsyncListing(Generic[Item]):
    """A list that was asked for: awaited it is its first page, with `async for` the items of all pages.

    Nothing is sent before; each time asks anew.
    """

    def __init__(self, call: StoredCall[Any], ask: AsyncAsk) -> None:
        self._call = call
        self._ask = ask

    def __repr__(self) -> str:
        return f"AsyncListing({self._call!r})"

    def __await__(self) -> Generator[Any, None, AsyncPage[Item]]:
        return self._page().__await__()

    async def _page(self) -> AsyncPage[Item]:
        return AsyncPage(await self._ask(self._call), self._call, self._ask)

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for item in await self._page():
            yield item
