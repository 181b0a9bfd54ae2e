"""The sample shop: a small REST API for trying out the bridge. Each app has its own state in memory."""

import hmac
from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.demo.seed import CUSTOMERS, ORDERS, PRODUCTS, Customer, Order, Product

_SHIPPING: Final = 490
_FREE_SHIPPING_FROM: Final = 5000


class _Draft(BaseModel):
    """Input from a client; unknown members are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _OrderLine(_Draft):
    product_id: str
    quantity: Annotated[int, Field(ge=1, le=100)]


class _OrderDraft(_Draft):
    customer_id: str
    lines: Annotated[list[_OrderLine], Field(min_length=1, max_length=20)]
    note: Annotated[str | None, Field(max_length=200)] = None


class _NoteDraft(_Draft):
    text: Annotated[str, Field(min_length=1, max_length=500)]


class _ProductQuery(_Draft):
    category: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


_AnyDraft = TypeVar("_AnyDraft", bound=_Draft)


class _Shop:
    """Products, customers and orders of one app; the public methods are its endpoints."""

    def __init__(self) -> None:
        self._products = {product.id: product for product in PRODUCTS}
        self._stock = {product.id: product.stock for product in PRODUCTS}
        self._customers = {customer.id: customer for customer in CUSTOMERS}
        self._orders = {order.id: order for order in ORDERS}
        self._notes: dict[str, list[dict[str, str]]] = {customer.id: [] for customer in CUSTOMERS}
        self._order_by_key: dict[str, str] = {}

    async def list_products(self, request: Request) -> JSONResponse:
        query = _validate(_ProductQuery, dict(request.query_params))
        categories = sorted({product.category for product in self._products.values()})
        if query.category not in {None, *categories}:
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"Unknown category; choose one of: {', '.join(categories)}."
            )
        found = [p for p in self._products.values() if query.category in {None, p.category}]
        return JSONResponse(
            {"items": [self._product_json(p) for p in found[: query.limit]], "total": len(found)}
        )

    async def get_product(self, request: Request) -> JSONResponse:
        return JSONResponse(self._product_json(_find(self._products, request, "product")))

    async def create_order(self, request: Request) -> JSONResponse:
        """Places an order; a repeated ``Idempotency-Key`` returns the order that it created."""
        draft = _validate(_OrderDraft, await request.body())
        key = request.headers.get("idempotency-key")
        if key in self._order_by_key:
            return self._placed(self._orders[self._order_by_key[key]])
        # Nothing is awaited from this check to the change of the stock, so no other order can take it in between.
        problems = [*self._customer_problems(draft.customer_id), *self._line_problems(draft.lines)]
        if problems:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, " ".join(problems))
        _require_unlocked(self._customers[draft.customer_id])
        order = Order(
            id=f"o-{1001 + len(self._orders)}",  # unique, as orders are never removed
            customer=draft.customer_id,
            status="pending",
            placed=_now(),
            lines=tuple((line.product_id, line.quantity) for line in draft.lines),
            note=draft.note,
        )
        self._orders[order.id] = order
        for product, quantity in order.lines:
            self._stock[product] -= quantity
        if key is not None:
            self._order_by_key[key] = order.id
        return self._placed(order)

    async def get_order(self, request: Request) -> JSONResponse:
        order = _find(self._orders, request, "order")
        _require_unlocked(self._customers[order.customer])
        return JSONResponse(self._order_json(order))

    async def get_customer(self, request: Request) -> JSONResponse:
        customer = _require_unlocked(_find(self._customers, request, "customer"))
        return JSONResponse(self._customer_json(customer))

    async def add_note(self, request: Request) -> JSONResponse:
        customer = _require_unlocked(_find(self._customers, request, "customer"))
        draft = _validate(_NoteDraft, await request.body())
        number = 1 + sum(map(len, self._notes.values()))
        note = {"id": f"n-{number}", "text": draft.text, "created_at": _now()}
        self._notes[customer.id].append(note)
        return JSONResponse({"customer_id": customer.id, **note}, HTTPStatus.CREATED)

    def _customer_problems(self, customer: str) -> list[str]:
        return [] if customer in self._customers else [f"There is no customer {customer}."]

    def _line_problems(self, lines: list[_OrderLine]) -> list[str]:
        ordered: Counter[str] = Counter()  # several lines may name one product
        for line in lines:
            ordered[line.product_id] += line.quantity
        problems = []
        for product, quantity in ordered.items():
            in_stock = self._stock.get(product)
            if in_stock is None:
                problems.append(f"There is no product {product}.")
            elif in_stock < quantity:
                name = self._products[product].name
                problems.append(f"Requested {quantity} of {product} ({name}), {in_stock} in stock.")
        return problems

    def _placed(self, order: Order) -> JSONResponse:
        location = {"location": f"/api/orders/{order.id}"}
        return JSONResponse(self._order_json(order), HTTPStatus.CREATED, location)

    def _product_json(self, product: Product) -> dict[str, Any]:
        return {
            "id": product.id,
            "sku": f"{product.category[:3].upper()}-{product.id.removeprefix('p-')}",
            "name": product.name,
            "category": product.category,
            "description": product.description,
            "price": _money(product.cents),
            "stock": self._stock[product.id],
            "weight_grams": product.weight_grams,
            "supplier": {"name": product.supplier, "reorder_at": 5},
        }

    def _order_json(self, order: Order) -> dict[str, Any]:
        lines = [(self._products[product], quantity) for product, quantity in order.lines]
        goods = sum(product.cents * quantity for product, quantity in lines)
        shipping = 0 if goods >= _FREE_SHIPPING_FROM else _SHIPPING
        return {
            "id": order.id,
            "customer_id": order.customer,
            "status": order.status,
            "placed_at": order.placed,
            "lines": [
                {
                    "product_id": product.id,
                    "name": product.name,
                    "quantity": quantity,
                    "unit_price": _money(product.cents),
                    "line_total": _money(product.cents * quantity),
                }
                for product, quantity in lines
            ],
            "shipping": _money(shipping),
            "total": _money(goods + shipping),
            "tracking": order.tracking,
            "note": order.note,
        }

    def _customer_json(self, customer: Customer) -> dict[str, Any]:
        return {
            "id": customer.id,
            "name": customer.name,
            "email": customer.email,
            "phone": customer.phone,
            "address": {"street": customer.street, "city": customer.city, "country": customer.country},
            "tier": customer.tier,
            "customer_since": customer.since,
            "orders": [order.id for order in self._orders.values() if order.customer == customer.id],
            "notes": self._notes[customer.id],
        }


_Record = TypeVar("_Record", Product, Customer, Order)


def _find(records: dict[str, _Record], request: Request, kind: str) -> _Record:
    key = request.path_params["id"]
    if key not in records:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {kind} {key!r}.")
    return records[key]


def _require_unlocked(customer: Customer) -> Customer:
    if customer.locked:
        raise HTTPException(
            HTTPStatus.FORBIDDEN, f"The records of {customer.id} are locked by a data-protection request."
        )
    return customer


def _validate(draft: type[_AnyDraft], value: bytes | dict[str, str]) -> _AnyDraft:
    try:
        if isinstance(value, bytes):
            return draft.model_validate_json(value)
        return draft.model_validate(value)
    except ValidationError as error:
        raise HTTPException(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "; ".join(
                ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
                for problem in error.errors(include_url=False, include_context=False, include_input=False)
            ),
        ) from None


def _money(cents: int) -> dict[str, str]:
    return {"amount": f"{cents // 100}.{cents % 100:02}", "currency": "EUR"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _problem_response(_request: object, error: Exception) -> JSONResponse:
    """The error as ``application/problem+json`` (RFC 9457)."""
    assert isinstance(error, HTTPException)  # it is registered for these only; Starlette's type is wider
    status = HTTPStatus(error.status_code)
    return JSONResponse(
        {"type": "about:blank", "title": status.phrase, "status": status, "detail": error.detail},
        status,
        error.headers,
        media_type="application/problem+json",
    )


class _BearerOnly:
    """Middleware that requires the shop's key as a bearer token (RFC 6750)."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # compare_digest: the time to compare must not show how much of a guessed key is right.
        if scope["type"] != "http" or hmac.compare_digest(self._authorization(scope), self._expected):
            await self._app(scope, receive, send)
            return
        refusal = HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "Send the shop's key as 'Authorization: Bearer KEY'.",
            {"www-authenticate": 'Bearer realm="shop"'},
        )
        await _problem_response(None, refusal)(scope, receive, send)

    @staticmethod
    def _authorization(scope: Scope) -> bytes:
        # Joined (RFC 9110 5.3), so a repeated header never matches.
        return b", ".join(value for name, value in scope["headers"] if name == b"authorization")


def create_app(key: str) -> Starlette:
    """The shop as an ASGI app with its initial records; ``key`` is the required bearer token."""
    shop = _Shop()
    return Starlette(
        routes=[
            Route("/api/products", shop.list_products),
            Route("/api/products/{id}", shop.get_product),
            Route("/api/orders", shop.create_order, methods=["POST"]),
            Route("/api/orders/{id}", shop.get_order),
            Route("/api/customers/{id}", shop.get_customer),
            Route("/api/customers/{id}/notes", shop.add_note, methods=["POST"]),
        ],
        middleware=[Middleware(_BearerOnly, key=key)],
        exception_handlers={HTTPException: _problem_response},
    )
