"""What tokens cost: prices as data, with a date and a source each, and the cost of an answer by them.

Unknown is None, never 0: a model without a price, an answer without usage, tokens of a kind that has no price. The table is
small and ages; replace it, or put your own before it: `Prices({...}) | PRICES`. Amounts are `decimal.Decimal`, because they
are added up, and sums of floats drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from gpt.errors import InvalidRequestError
from gpt.protocol.profiles import HOSTED
from gpt.types import Usage

__all__ = ["CACHED", "LOCAL", "PRICES", "Amount", "Cost", "Price", "Prices", "added", "cost"]

Amount: TypeAlias = Decimal | int | float | str
"""Money; a float is taken for the decimal number that it is written as."""

LOCAL = "local:"
"""In place of a host: the model in the box, which costs nothing."""

_MILLION = 1_000_000
_KEPT = 256
"""Names whose price has been looked up that are kept."""

_STANDARD = frozenset({None, "", "auto", "default", "standard"})
"""Service tiers that cost what the table says; others cost less (flex, batch) or more (priority, fast)."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a million tokens cost, in `currency`. Raises InvalidRequestError for what is no amount from 0.

    `cached_input` is for prompt tokens that the server had in its cache, `cache_write` for those that it put there; None where
    that is not known. Thinking is output. Prompts of more than `up_to` tokens cost what `beyond` says; without it that is not
    known. `as_of` and `source` tell when it was so, and who says it.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    up_to: int | None = None
    beyond: Price | None = None
    currency: str = "USD"
    as_of: date | None = None
    source: str = ""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            input: Amount,
            output: Amount,
            cached_input: Amount | None = None,
            cache_write: Amount | None = None,
            up_to: int | None = None,
            beyond: Price | None = None,
            currency: str = "USD",
            as_of: date | None = None,
            source: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input", "cache_write"):
            value: Any = getattr(self, name)
            if value is not None:
                msgspec.structs.force_setattr(self, name, _amount(value, name))


def _amount(value: Any, name: str) -> Decimal:
    problem = InvalidRequestError(f"{name}: expected the price of a million tokens, a number from 0, got {value!r}", param=name)
    if not isinstance(value, (Decimal, int, float, str)):
        raise problem
    try:
        made = Decimal(str(value))
    except InvalidOperation:
        raise problem from None
    if not made.is_finite() or made < 0:
        raise problem
    return made


class Prices(Mapping[str, Price]):
    """Prices by the names of models, which may have `*` and `?`. The first that matches counts.

    A name with a host before it, "api.openai.com/gpt-5-mini", is for answers from there alone; others are for whoever answers.
    `one | other` has the prices of `one` first.
    """

    def __init__(self, prices: Mapping[str, Price]) -> None:
        for name, price in prices.items():
            if not isinstance(price, Price):
                raise InvalidRequestError(f"prices[{name!r}]: expected a Price, got {type(price).__name__}", param="prices")
        self._prices = dict(prices)
        self._found: dict[tuple[str, str | None], Price | None] = {}

    def find(self, model: str, host: str | None = None) -> Price | None:
        """The price of `model`, answered by `host`; None where there is none."""
        try:  # not by two looks, between which another thread may clear it
            return self._found[model, host]
        except KeyError:
            found = self._found[model, host] = self._look(model, host)
        if len(self._found) >= _KEPT:  # servers make names up
            self._found.clear()
        return found

    def _look(self, model: str, host: str | None) -> Price | None:
        names = (model,) if host is None else (f"{host}/{model}", model)
        for pattern, price in self._prices.items():
            if any(name == pattern or fnmatchcase(name, pattern) for name in names):
                return price
        return None

    def __or__(self, other: Mapping[str, Price]) -> Prices:
        return Prices(self._prices | {name: price for name, price in other.items() if name not in self._prices})

    def __getitem__(self, name: str) -> Price:
        return self._prices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prices)

    def __len__(self) -> int:
        return len(self._prices)

    def __repr__(self) -> str:
        return f"Prices({len(self)} of them)"


class Cost(msgspec.Struct, frozen=True):
    """What something cost, and how that is known."""

    amount: Decimal
    currency: str
    """"" where nobody says: a server that reported a number alone, or nothing was to be paid."""
    kind: Literal["reported", "table", "free"]
    """"reported": the server said so. "table": its tokens by a price. "free": the model in the box, and answers from a cache.
    Of a sum the least sure."""
    as_of: date | None = None
    """The date of the price, of a sum the oldest."""
    source: str = ""
    """Whose price it is."""


CACHED = Cost(Decimal(0), "", "free", source="a cache")
"""The cost of an answer from a cache."""


def cost(
    usage: Usage | None,
    model: str,
    prices: Prices | None = None,
    *,
    host: str | None = HOSTED.host,
    tier: str | None = None,
) -> Cost | None:
    """What an answer with this usage cost; None where that is not known.

    `host` is who answered, `tier` the answer's `service_tier`. What the server reports itself counts for more than `prices`
    (PRICES). Tokens only: what a server takes for a search or another tool of its own comes on top.
    """
    if host == LOCAL:
        return Cost(Decimal(0), "", "free")
    if usage is None:
        return None
    if usage.cost is not None:
        # openrouter.ai/docs/use-cases/usage-accounting: "Cost in credits".
        return Cost(Decimal(str(usage.cost)), _CREDITS.get(host or "", ""), "reported", source=host or "")
    price = (PRICES if prices is None else prices).find(model, host)
    if price is not None and price.up_to is not None and usage.prompt_tokens > price.up_to:
        price = price.beyond
    if price is None or tier not in _STANDARD or not usage.prompt_tokens:
        return None
    amount = _by(price, usage)
    return None if amount is None else Cost(amount, price.currency, "table", price.as_of, price.source)


_CREDITS = {"openrouter.ai": "credits"}
"""What a server's `usage.cost` counts."""


def _by(price: Price, usage: Usage) -> Decimal | None:
    """The amount; None where there are tokens of a kind that has no price, or more cached ones than prompt."""
    prompt, answer = usage.prompt_tokens_details, usage.completion_tokens_details
    if (prompt is not None and prompt.audio_tokens) or (answer is not None and answer.audio_tokens):
        return None
    # Both are among the prompt's tokens.
    cached = (prompt.cached_tokens if prompt is not None else None) or usage.prompt_cache_hit_tokens or 0
    written = (prompt.cache_write_tokens if prompt is not None else None) or 0
    fresh = usage.prompt_tokens - cached - written
    if fresh < 0 or (cached and price.cached_input is None) or (written and price.cache_write is None):
        return None
    amount = price.input * fresh + price.output * usage.completion_tokens
    amount += (price.cached_input or 0) * cached + (price.cache_write or 0) * written
    return amount / _MILLION


def added(costs: Iterable[Cost | None]) -> Cost | None:
    """The sum; None where one is not known, where there are several currencies, and of nothing."""
    given = list(costs)
    known = [one for one in given if one is not None]
    paid = [one for one in known if one.kind != "free"] or known[:1]
    if not known or len(known) < len(given) or len({one.currency for one in paid}) > 1:
        return None
    kinds = {one.kind for one in paid}
    dates = [one.as_of for one in paid if one.as_of is not None]
    return Cost(
        sum((one.amount for one in paid), Decimal(0)),
        paid[0].currency,
        "table" if "table" in kinds else paid[0].kind,
        min(dates, default=None),
        ", ".join(dict.fromkeys(one.source for one in paid if one.source)),
    )


# --------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------

_LONG = 272_000
"""Longer prompts cost twice the input and one and a half times the output, the whole request: the models' own pages."""


def _row(names: str, price: Price, *, long: tuple[Amount, Amount, Amount, Amount] | None = None) -> dict[str, Price]:
    """A price of the hosted service, under each of its names; `long` are input, cached, written and output beyond `_LONG`."""
    if long is not None:
        beyond = Price(
            input=long[0],
            cached_input=long[1],
            cache_write=long[2],
            output=long[3],
            as_of=price.as_of,
            source=price.source,
        )
        price = msgspec.structs.replace(price, up_to=_LONG, beyond=beyond)
    return {f"{HOSTED.host}/{name}": price for name in names.split()}


def _page(name: str) -> str:
    return f"developers.openai.com/api/docs/models/{name}"


PRICES = Prices(
    # Each row was read where its source says, and was so at its date; it may be so for longer. Cache writes are those of 30
    # minutes. DeepSeek is not here, because its prices change with the hour.
    _row(
        "gpt-6.2-sol",
        Price(
            input="2.00",
            cached_input="0.10",
            cache_write="2.50",
            output="10.00",
            as_of=date(2026, 11, 17),
            source=_page("gpt-6.2-sol"),
        ),
        long=("4.00", "0.20", "5.00", "15.00"),
    )
    | _row(
        "gpt-6-astra",
        Price(
            input="10.00",
            cached_input="1.00",
            cache_write="12.50",
            output="50.00",
            as_of=date(2026, 9, 5),
            source="developers.openai.com/api/docs/models/compare",
        ),
        long=("20.00", "2.00", "25.00", "75.00"),
    )
    | _row(
        "gpt-6-luna",
        Price(
            input="0.10",
            cached_input="0.01",
            cache_write="0.125",
            output="0.50",
            as_of=date(2026, 9, 22),
            source=_page("gpt-6-luna"),
        ),
        long=("0.20", "0.02", "0.25", "0.75"),
    )
    | _row(
        "gpt-5.6-luna",
        Price(
            input="0.20",
            cached_input="0.02",
            cache_write="0.25",
            output="1.20",
            as_of=date(2026, 8, 27),
            source=_page("gpt-5.6-luna"),
        ),
        long=("0.40", "0.04", "0.50", "1.80"),
    )
    | _row(
        "gpt-5-mini gpt-5-mini-2025-08-07",
        Price(input="0.25", cached_input="0.025", output="2.00", as_of=date(2025, 11, 13), source=_page("gpt-5-mini")),
    )
    | _row(
        "gpt-5-nano gpt-5-nano-2025-08-07",
        Price(input="0.05", cached_input="0.005", output="0.40", as_of=date(2026, 9, 22), source=_page("gpt-5-nano")),
    )
    | _row(
        "gpt-4.1 gpt-4.1-2025-04-14",
        Price(input="2.00", cached_input="0.50", output="8.00", as_of=date(2025, 7, 4), source="pydantic/genai-prices"),
    )
    | _row(
        "gpt-4.1-mini gpt-4.1-mini-2025-04-14",
        Price(input="0.40", cached_input="0.10", output="1.60", as_of=date(2025, 7, 4), source="pydantic/genai-prices"),
    )
    | _row(
        "gpt-4o gpt-4o-2024-08-06 gpt-4o-2024-11-20",
        Price(input="2.50", cached_input="1.25", output="10.00", as_of=date(2025, 7, 4), source="pydantic/genai-prices"),
    )
    | _row(
        "gpt-4o-mini gpt-4o-mini-2024-07-18",
        Price(input="0.15", cached_input="0.075", output="0.60", as_of=date(2025, 7, 4), source="pydantic/genai-prices"),
    )
    | _row("gpt-4 gpt-4-0613", Price(input="30", output="60", as_of=date(2025, 7, 4), source=_page("gpt-4")))
)
"""Prices of the hosted service in US dollars, standard processing."""
